/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list.h - a doubly linked list whose links lie inside its members, so that a member is taken out
 * without looking for it.
 *
 * threads  one      memory  the members'      time  O(1) each
 */
#ifndef KVW_BASE_LIST_H
#define KVW_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kvw_list { /* the head, and the links of a member; a member in no list points to itself */
    struct kvw_list *next, *prev;
};

static inline void kvw_list_init(struct kvw_list *l)
{
    l->next = l->prev = l;
}

static inline bool kvw_list_empty(const struct kvw_list *l)
{
    return l->next == l;
}

/* Append. The member must be in no list. */
static inline void kvw_list_add(struct kvw_list *head, struct kvw_list *member)
{
    member->prev = head->prev;
    member->next = head;
    head->prev->next = member;
    head->prev = member;
}

/* Take out, if it is in one. */
static inline void kvw_list_remove(struct kvw_list *member)
{
    member->prev->next = member->next;
    member->next->prev = member->prev;
    kvw_list_init(member);
}

/* Append unless it is in a list already. */
static inline void kvw_list_want(struct kvw_list *head, struct kvw_list *member)
{
    if (kvw_list_empty(member))
        kvw_list_add(head, member);
}

#define kvw_list_of(link, type, field) ((type *)(void *)((char *)(link)-offsetof(type, field)))

/* Walk a list; the member at hand may be taken out. */
#define kvw_list_each(it, after, head)                                                             \
    for (struct kvw_list *it = (head)->next, *after = it->next; it != (head);                      \
         it = after, after = it->next)

#endif
