//! A shared notebook on the command line that shows Landfall off
