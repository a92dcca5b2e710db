//! Whole-system tests of Landfall: real processes, sockets and files
