mod clone;
mod program;
mod tree;
