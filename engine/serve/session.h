/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.h - a worker's ops save and restore: K and V of a prompt's beginning, from its cache to a
 * file and from a file to its cache, where requests with `reuse` find them.
 *
 * threads  the worker's own
 * memory   what is restored is kept as any earlier prompt's beginning: until its memory is needed
 * time     of the disk; nothing else is done meanwhile
 */
#ifndef KVE_SERVE_SESSION_H
#define KVE_SERVE_SESSION_H

#include "../session/kvfile.h"
#include "job.h"

/* Whose K and V this worker's are. */
void kve_session_owner(struct kve_owner *owner, const struct kve_worker *w);

/* Each says "saved" or "restored", with err and text. */
void kve_session_save(struct kve_worker *w, const cJSON *obj);
void kve_session_restore(struct kve_worker *w, const cJSON *obj);

/* The prefix cache on disk, if the config has one. Where it can't be, a sentence says why, and the
 * worker serves without. */
void kve_session_open_store(struct kve_worker *w);
/* What is kept of r's prompt, and not there yet, to the disk. */
void kve_session_store(struct kve_worker *w, const struct kve_request *r);

#endif
