/* Preloaded into the relay for the column "without fsync": the same program, but the disk answers
   at once. For the bench alone; the relay has no such option, and should not have one. */
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
