//! The program from outside, over archives of real servers' binlogs that are made here by hand.

mod archive;
mod binlog;
