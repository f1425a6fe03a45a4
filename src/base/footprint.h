/* footprint.h - gives back memory that a process at rest does not use. Layer: base. Thread: any. */
#ifndef BASE_FOOTPRINT_H
#define BASE_FOOTPRINT_H

/* Returns free heap, and the pages of program and libraries that only the start or a renewal
 * needed: they are clean copies of files, and come back from the page cache when they are touched,
 * a fault for each 64 KiB. A few hundred microseconds. */
void footprint_trim(void);

#endif
