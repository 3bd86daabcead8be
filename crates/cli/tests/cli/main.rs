//! The `longhand` command from outside: the real binary on tiny settings.

mod bad_input;
mod doctor;
mod emulate;
mod eval_and_generate;
mod kernels;
mod train;
mod verify;
mod workplace;
