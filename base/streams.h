/* The three standard streams. */
#ifndef BASE_STREAMS_H
#define BASE_STREAMS_H

/* To be called before a program opens anything. Descriptors 0 to 2 that it was
 * started without are opened on /dev/null, so that no file and no socket gets
 * their number, and with it what is written for a person; libuv aborts where it
 * closes one. They can only be read: who writes fails, as to a closed one. */
void kv_streams_fill(void);

#endif
