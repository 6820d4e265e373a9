//! The tests of the whole mesh are in `it/`: one binary, one module a subject.
