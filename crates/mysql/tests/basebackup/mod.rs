mod clone;
mod dump;
mod program;
mod tree;
