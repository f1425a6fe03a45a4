/* loop_event.h - private to net/: the libevent base behind a loop. */
#ifndef NET_LOOP_EVENT_H
#define NET_LOOP_EVENT_H

struct event_base;
struct loop;

struct event_base *loop_base(struct loop *l); /* borrowed */

#endif
