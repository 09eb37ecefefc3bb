/* SPDX-License-Identifier: Apache-2.0 */
/* blas.c - finds cuBLASLt, fills the table, and keeps a plan for each shape of a product. */
#include "blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What cuBLASLt calls A, B and C are w, x and y here, each with its rows as columns. */
struct plan {
    uint32_t rows, cols, bucket; /* rows 0: none */
    kvg_lt_desc desc;
    kvg_lt_layout w, x, y;
    struct kvg_lt_algorithm algorithm;
};

struct kvg_blas {
    struct kvg_blas_calls calls;
    void *library;
    kvg_lt_handle handle;
    void *workspace;
    size_t workspace_bytes;
    struct plan plans[KVG_BLAS_PLANS];
    uint64_t made; /* the next one goes to made % KVG_BLAS_PLANS */
};

static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

static void *load(void)
{
    const char *name = getenv("KVW_LIBCUBLASLT");
    void *library = NULL;

    if (name != NULL && name[0] != '\0')
        return dlopen(name, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library == NULL && i < sizeof(names) / sizeof(names[0]); ++i)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

struct entry {
    const char *symbol;
    size_t at; /* in struct kvg_blas_calls */
};

/* The name of the first symbol that the library lacks, or NULL. */
static const char *fill(struct kvg_blas *b)
{
    static const struct entry entries[] = {
#define KVG_ENTRY(name, symbol, params) {#symbol, offsetof(struct kvg_blas_calls, name)},
        KVG_BLAS_CALLS(KVG_ENTRY)
#undef KVG_ENTRY
    };

    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); ++i) {
        void *symbol = dlsym(b->library, entries[i].symbol);

        if (symbol == NULL)
            return entries[i].symbol;
        memcpy((char *)&b->calls + entries[i].at, &symbol, sizeof(symbol));
    }
    return NULL;
}

static kvw_err code_of(kvg_blas_status s)
{
    return s == KVG_LT_NO_MEMORY ? KVW_E_NOMEM : KVW_E_DEVICE;
}

static kvw_err start(struct kvg_blas *b, char *text, size_t text_bytes)
{
    const char *missing;
    kvg_blas_status s;

    b->library = load();
    if (b->library == NULL) {
        snprintf(text, text_bytes, "cuBLAS: no cuBLASLt here: %s", dlerror());
        return KVW_E_NOTFOUND;
    }
    missing = fill(b);
    if (missing != NULL) {
        snprintf(text, text_bytes, "cuBLAS: the library has no %s", missing);
        return KVW_E_UNSUPPORTED;
    }
    s = b->calls.create(&b->handle);
    if (s == KVG_LT_SUCCESS)
        return KVW_OK;
    b->handle = NULL;
    snprintf(text, text_bytes, "cuBLAS: cuBLASLt doesn't start: status %d", s);
    return code_of(s);
}

kvw_err kvg_blas_open(struct kvg_blas **blas, void *workspace, size_t workspace_bytes, char *text,
                      size_t text_bytes)
{
    struct kvg_blas *b = calloc(1, sizeof(*b));
    kvw_err err;

    *blas = NULL;
    if (b == NULL) {
        snprintf(text, text_bytes, "cuBLAS: no memory for %zu bytes", sizeof(*b));
        return KVW_E_NOMEM;
    }
    b->workspace = workspace;
    b->workspace_bytes = workspace_bytes;
    err = start(b, text, text_bytes);
    if (err == KVW_OK)
        *blas = b;
    else
        kvg_blas_close(b);
    return err;
}

/* What of it there is. */
static void forget(const struct kvg_blas *b, struct plan *p)
{
    if (p->y != NULL)
        (void)b->calls.layout_destroy(p->y);
    if (p->x != NULL)
        (void)b->calls.layout_destroy(p->x);
    if (p->w != NULL)
        (void)b->calls.layout_destroy(p->w);
    if (p->desc != NULL)
        (void)b->calls.desc_destroy(p->desc);
    memset(p, 0, sizeof(*p));
}

void kvg_blas_close(struct kvg_blas *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; i < KVG_BLAS_PLANS; ++i)
        forget(b, &b->plans[i]);
    if (b->handle != NULL)
        (void)b->calls.destroy(b->handle);
    if (b->library != NULL)
        (void)dlclose(b->library);
    free(b);
}

uint64_t kvg_blas_plans(const struct kvg_blas *b)
{
    return b->made;
}

/* Row by row is column by column of the transposed: y^T = w x^T, of which w lies transposed. */
static kvg_blas_status describe(const struct kvg_blas *b, struct plan *p)
{
    const struct kvg_blas_calls *c = &b->calls;
    const int transposed = KVG_LT_TRANSPOSED;
    kvg_blas_status s = c->desc_create(&p->desc, KVG_LT_COMPUTE_F32, KVG_LT_F32);

    if (s == KVG_LT_SUCCESS)
        s = c->desc_set(p->desc, KVG_LT_TRANSPOSE_A, &transposed, sizeof(transposed));
    if (s == KVG_LT_SUCCESS)
        s = c->layout_create(&p->w, KVG_LT_BF16, p->cols, p->rows, p->cols);
    if (s == KVG_LT_SUCCESS)
        s = c->layout_create(&p->x, KVG_LT_BF16, p->cols, p->bucket, p->cols);
    if (s == KVG_LT_SUCCESS)
        s = c->layout_create(&p->y, KVG_LT_F32, p->rows, p->bucket, p->rows);
    return s;
}

/* *count: algorithms found, 0 or 1. */
static kvg_blas_status find(const struct kvg_blas *b, struct plan *p, int *count)
{
    const struct kvg_blas_calls *c = &b->calls;
    const uint64_t workspace = b->workspace_bytes;
    struct kvg_lt_found found = {0};
    kvg_lt_wish wish = NULL;
    kvg_blas_status s = c->wish_create(&wish);

    *count = 0;
    if (s != KVG_LT_SUCCESS)
        return s;
    s = c->wish_set(wish, KVG_LT_WISH_WORKSPACE, &workspace, sizeof(workspace));
    if (s == KVG_LT_SUCCESS)
        s = c->find(b->handle, p->desc, p->w, p->x, p->y, p->y, wish, 1, &found, count);
    (void)c->wish_destroy(wish);
    p->algorithm = found.algorithm;
    return s;
}

static kvw_err plan_for(struct kvg_blas *b, const struct kvg_product *product, struct plan **plan)
{
    const uint32_t bucket = kvg_blas_bucket(product->tokens);
    kvg_blas_status s;
    struct plan *p;
    int count = 0;

    for (uint32_t i = 0; i < KVG_BLAS_PLANS; ++i) {
        p = &b->plans[i];
        if (p->rows == product->rows && p->cols == product->cols && p->bucket == bucket) {
            *plan = p;
            return KVW_OK;
        }
    }
    p = &b->plans[b->made % KVG_BLAS_PLANS];
    forget(b, p);
    *p = (struct plan){.rows = product->rows, .cols = product->cols, .bucket = bucket};
    s = describe(b, p);
    if (s == KVG_LT_SUCCESS)
        s = find(b, p, &count);
    if (s == KVG_LT_SUCCESS && count > 0) {
        ++b->made;
        *plan = p;
        return KVW_OK;
    }
    forget(b, p);
    return s == KVG_LT_SUCCESS ? KVW_E_UNSUPPORTED : code_of(s);
}

kvw_err kvg_blas_multiply(struct kvg_blas *b, const struct kvg_product *product, kvg_stream stream)
{
    const struct kvg_blas_calls *c = &b->calls;
    const float alpha = 1, beta = product->add ? 1 : 0;
    const uint64_t tokens = product->tokens;
    struct plan *p = NULL;
    kvg_blas_status s;
    kvw_err err;

    if (product->tokens == 0 || product->rows == 0 || product->cols == 0)
        return KVW_E_INVALID;
    err = plan_for(b, product, &p);
    if (err != KVW_OK)
        return err;
    s = c->layout_set(p->x, KVG_LT_LAYOUT_COLS, &tokens, sizeof(tokens));
    if (s == KVG_LT_SUCCESS)
        s = c->layout_set(p->y, KVG_LT_LAYOUT_COLS, &tokens, sizeof(tokens));
    if (s == KVG_LT_SUCCESS)
        s = c->multiply(b->handle, p->desc, &alpha, product->w, p->w, product->x, p->x, &beta,
                        product->y, p->y, product->y, p->y, &p->algorithm, b->workspace,
                        b->workspace_bytes, stream);
    return s == KVG_LT_SUCCESS ? KVW_OK : code_of(s);
}
