//! Whole-system tests: real processes, real sockets, real files.

mod system {
    mod convergence;
    mod cuts;
    mod kills;
    mod lost_history;
    mod readme;
}
