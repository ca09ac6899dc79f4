//! The shipped policies, by their cases. The tests are in `tests/`.
