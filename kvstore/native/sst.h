/* Sorted tables as Python sees them; the specification is the docstring of
 * kvstore/sstable/format.py.
 *
 * Nothing here opens a file or writes one: a table is given as a mapping of its whole file, a build
 * comes out as bytes to be written. Every call does a bounded piece of work and says why it
 * stopped. Pointers given to a kv_..._new stay valid until its kv_..._free, which the caller sees
 * to. Functions that return int give 0 or a negative errno unless they say otherwise.
 */
#ifndef KV_SST_H
#define KV_SST_H

#include <stddef.h>
#include <stdint.h>

/* What became of a lookup, and why a kernel stopped. */
enum {
    KV_FOUND = 0,
    KV_ABSENT = -1,
    KV_DELETED = -2,
    KV_DAMAGED = -3,    /* see kv_table_fault_get of the table in `slot` */
    KV_NEED_BLOCK = -4, /* the block is compressed: decompress `block` of `slot` and give it back */
    KV_MORE = -5,       /* the bound of this call was reached: call again */
    KV_END = -6,        /* nothing is left */
    KV_FULL = -7,       /* the output is full: take it, then call again */
    KV_NEED_ROOM = -8,  /* the next entry alone needs `need` bytes of output */
    KV_NOT_RESIDENT = -9 /* it may have to wait for the disk, and the caller must not */
};

/* What a fault is a fault of. */
enum { KV_PART_DATA = 1, KV_PART_FILTER = 2, KV_PART_INDEX = 3 };

typedef struct {
    int part;          /* KV_PART_...; 0: no fault met yet */
    int error;         /* errno of a failed read; 0: the bytes were read, and are wrong */
    int malformed;     /* 1: the checksum is right but the structure is not */
    uint64_t offset;   /* of the part in the file */
    uint32_t expected; /* the checksum in the file */
    uint32_t actual;   /* the checksum of the bytes */
} kv_table_fault;

typedef struct kv_table kv_table;
typedef struct kv_view kv_view;
typedef struct kv_merge kv_merge;
typedef struct kv_builder kv_builder;
typedef struct kv_run kv_run;

/* ---- block.c: one plain data block ---- */

/* 1 when the block's structure is sound (every offset within it, in order), else 0. */
int kv_block_check(const char *block, size_t size);
/* KV_FOUND (out: offset and length of the value in the block), KV_ABSENT or KV_DELETED. The block
 * has passed kv_block_check. hash: the low 32 bits of the key's xxh3. */
int kv_block_find(const char *block, size_t size, const char *key, size_t key_length, uint64_t hash,
                  uint64_t *out);
/* The positions of entries from number `first` on, for whoever shows or checks a block: rows of
 * KV_BLOCK_ROW numbers: key suffix start, value start, value end, 1 when deleted, hash; at most
 * max_rows. Returns how many entries there are. *prefix_start and *prefix_length: the prefix of all
 * its keys. */
enum { KV_BLOCK_ROW = 5 };
size_t kv_block_rows(const char *block, size_t size, size_t first, uint64_t *rows, size_t max_rows,
                     uint64_t *prefix_start, uint64_t *prefix_length);

/* ---- table.c: one table ---- */

typedef struct {
    int fd;            /* for the first, checked read of each part; -1: read the mapping */
    uint32_t seed;     /* CRC-32C of the salt */
    uint64_t size;     /* of the file, and of the mapping */
    uint64_t data_end; /* file offset behind the last data block */
    uint64_t filter_offset, filter_length; /* trailers included; length 0: no filter */
    uint64_t index_offset, index_length;
} kv_table_layout;

/* NULL when there is no memory. Smallest and largest key are copied. Nothing is read yet: filter,
 * index and each block are read and checked before their first use. */
kv_table *kv_table_new(const char *map, const kv_table_layout *layout, const char *smallest,
                       size_t smallest_length, const char *largest, size_t largest_length);
void kv_table_free(kv_table *table);
/* Reads and checks filter and index now. 0 or KV_DAMAGED. */
int kv_table_prepare(kv_table *table);
/* Data blocks; 0 before kv_table_prepare. */
uint64_t kv_table_blocks(const kv_table *table);
/* File offset and stored length (without the trailer) of a data block. Prepared tables only. */
void kv_table_block_at(const kv_table *table, uint64_t block, uint64_t *offset, uint64_t *length);
/* Reads and checks a block again, whether it was checked before or not. 0 or KV_DAMAGED. */
int kv_table_check_block(kv_table *table, uint64_t block);
/* Whether the keys of a block that was decompressed, and passed kv_block_check, lie between the
 * separators beside it. 0 or KV_DAMAGED. Prepared tables only. */
int kv_table_check_plain(kv_table *table, uint64_t block, const char *plain, size_t size);
/* 0 when the table surely lacks the key; 1 when it may have it, or the filter is damaged. */
int kv_table_may_contain(kv_table *table, const char *key, size_t key_length, uint64_t hash);
/* The last fault met. */
void kv_table_fault_get(kv_table *table, kv_table_fault *out);

/* ---- view.c: point reads over many tables ---- */

typedef struct {
    uint64_t gets, tables_probed, filter_negatives, blocks_checked;
} kv_view_stats;

typedef struct {
    int status;      /* KV_FOUND, KV_ABSENT, KV_DELETED, KV_DAMAGED or KV_NEED_BLOCK */
    uint32_t slot;   /* the table concerned */
    uint64_t block;  /* the block concerned */
    uint64_t offset; /* KV_FOUND: of the value in the table's file */
    uint64_t length; /* KV_FOUND: of the value */
} kv_found;

enum { KV_SLOTS_MAX = 32767 };

/* Runs of tables, newest first. Run r is tables[run_ends[r - 1]..run_ends[r]), in key order and
 * without overlap; a slot is an index into tables. stats: shared counters, may be NULL. NULL when
 * there is no memory. The view does not own the tables. */
kv_view *kv_view_new(kv_table *const *tables, const uint32_t *run_ends, size_t runs,
                     kv_view_stats *stats);
void kv_view_free(kv_view *view);
/* Looks a key up in the runs, newest first, beginning with the run behind that of table
 * after_slot (-1: all of them). only_resident: KV_NOT_RESIDENT where it might have to wait for the
 * disk. */
void kv_view_find(kv_view *view, const char *key, size_t key_length, uint64_t hash,
                  int64_t after_slot, int only_resident, kv_found *out);
enum { KV_VALUE_ROOM = 65536 };
/* The same for the most frequent case: copies the value to out, which has room for KV_VALUE_ROOM
 * bytes, and returns its length. KV_ABSENT or KV_DELETED; any other negative number (the value does
 * not fit, a block is compressed, damage): ask kv_view_find, which counts it. */
int64_t kv_view_get(kv_view *view, const char *key, size_t key_length, uint64_t hash, char *out);
/* The same, or KV_NOT_RESIDENT. */
int64_t kv_view_get_resident(kv_view *view, const char *key, size_t key_length, uint64_t hash,
                             char *out);

/* Has all that a look-up of the key needs read from the disk, so that kv_view_get_resident finds
 * it. */
void kv_view_fetch(kv_view *view, const char *key, size_t key_length, uint64_t hash);

/* 0 when no table of the view holds an entry of that key, else 1. No data block is read. */
int kv_view_may_contain(kv_view *view, const char *key, size_t key_length, uint64_t hash);

/* ---- merge.c: entries of a view in key order, forwards or backwards ---- */

typedef struct {
    size_t count;         /* entries written */
    size_t bytes;         /* bytes of output used */
    uint32_t slot;        /* KV_DAMAGED, KV_NEED_BLOCK: the table */
    uint64_t block;       /* KV_DAMAGED, KV_NEED_BLOCK: the block */
    size_t need;          /* KV_NEED_ROOM */
    int64_t key_length;   /* of every entry written; -1 when they differ */
    int64_t value_length; /* of every entry written; -1 when they differ */
} kv_chunk;

/* lower <= key < upper; NULL: no bound. Nothing is read yet. NULL when there is no memory. */
kv_merge *kv_merge_new(kv_view *view, const char *lower, size_t lower_length, const char *upper,
                       size_t upper_length, int reverse);
void kv_merge_free(kv_merge *merge);
/* Writes key, value, key, value... of live entries to out, and their two lengths each to lengths:
 * at most max_entries. Returns KV_MORE, KV_FULL (out or lengths), KV_NEED_ROOM, KV_END, KV_DAMAGED
 * or KV_NEED_BLOCK; chunk says what was written before that. Looks at no more than 4 * max_entries
 * + 1024 entries a call. */
int kv_merge_read(kv_merge *merge, char *out, size_t out_size, uint32_t *lengths,
                  size_t max_entries, kv_chunk *chunk);
/* What kv_merge_new, kv_merge_only_resident, kv_merge_read and kv_merge_free in a row do, without
 * memory of its own: for scans that one list answers. When more is wanted, or it stopped for
 * anything but KV_END, a merge goes on behind the last key. Of a view with very many runs it gives
 * nothing, and KV_MORE. */
int kv_view_scan(kv_view *view, const char *lower, size_t lower_length, const char *upper,
                 size_t upper_length, int reverse, int only_resident, char *out, size_t out_size,
                 uint32_t *lengths, size_t max_entries, kv_chunk *chunk);
/* Adds to *count the live entries it passes, at most max_entries a call; returns as kv_merge_read
 * does, KV_MORE for KV_FULL. */
int kv_merge_count(kv_merge *merge, size_t max_entries, uint64_t *count, kv_chunk *chunk);
/* From now on reading stops with KV_NOT_RESIDENT rather than to wait for the disk (1), or waits (0,
 * as at the beginning). It can be gone on with either way. */
void kv_merge_only_resident(kv_merge *merge, int only_resident);
/* Answers KV_NEED_BLOCK: the plain bytes of that block, which passed kv_block_check. They stay
 * valid until another block of the same run was asked for, or the merge is freed. */
int kv_merge_feed(kv_merge *merge, uint32_t slot, uint64_t block, const char *plain, size_t size);

/* ---- run.c: entries from memory, sorted ---- */

/* Entries in any order, keys all different, given in portions and then sorted. NULL when there is
 * no memory. */
kv_run *kv_run_new(void);
void kv_run_free(kv_run *run);
/* `count` entries: key, value, key, value... in data, used until kv_run_free; their lengths (value
 * length -1: deleted) and the keys' xxh3, used during this call. 0, -ENOMEM, or -EINVAL when the
 * lengths do not add up to size or are out of range, or the run is sorted already. */
int kv_run_add(kv_run *run, size_t count, const char *data, size_t size,
               const uint32_t *key_lengths, const int32_t *value_lengths, const uint64_t *hashes);
/* Sorts them, so that a builder can take them. 0 or -ENOMEM. */
int kv_run_sort(kv_run *run);

/* ---- builder.c: making a table ---- */

typedef struct {
    uint32_t seed;        /* CRC-32C of the salt */
    uint32_t block_bytes; /* a block is closed when its plain size has reached this */
    uint32_t filter_bits; /* per key; 0: no filter */
    uint64_t position;    /* file offset of the first data block */
    int compress;         /* 1: plain blocks are handed out, see kv_builder_block */
} kv_builder_config;

typedef struct {
    uint64_t position;                             /* file offset behind all output so far */
    uint64_t blocks, entries, tombstones, dropped; /* dropped: tombstones not kept */
    uint64_t key_bytes, value_bytes;               /* as given, uncompressed */
    uint64_t shadowed;                             /* older versions that a merge passed over */
    uint64_t entries_in; /* entries taken from the source: kept, dropped and shadowed */
    uint64_t bytes_in;   /* their key and value bytes */
    uint64_t data_end, filter_offset, filter_length, index_offset, index_length; /* when ended */
} kv_builder_info;

kv_builder *kv_builder_new(const kv_builder_config *config);
void kv_builder_free(kv_builder *builder);
/* Moves entries from a source to the builder. A tombstone is dropped unless a table of `below` may
 * hold its key (NULL: nothing below). Returns KV_FULL (1 MiB of output is waiting, or a plain block
 * is waiting to be compressed), KV_MORE (max_entries were taken, or the file has reached
 * stop_position; 0: no such bound), KV_END, KV_DAMAGED, KV_NEED_BLOCK (of the source: answer with
 * kv_merge_feed) or -ENOMEM. It stops between two keys, never between two versions of one. */
int kv_builder_add_run(kv_builder *builder, kv_run *run, kv_view *below, size_t max_entries,
                       uint64_t stop_position);
int kv_builder_add_merge(kv_builder *builder, kv_merge *merge, kv_view *below, size_t max_entries,
                         uint64_t stop_position, kv_chunk *chunk);
/* With compress: the plain block that waits, *size 0 when none does; kv_builder_put gives what is
 * to be stored for it, and the kind. */
const char *kv_builder_block(kv_builder *builder, size_t *size);
int kv_builder_put(kv_builder *builder, const char *stored, size_t size, int kind);
/* Closes the last block. With compress it may wait to be compressed afterwards. */
int kv_builder_end_data(kv_builder *builder);
/* Behind the last block: writes filter and index to the output. */
int kv_builder_end_parts(kv_builder *builder);
/* The output so far, to be written at file offset info.position - size; valid until the next
 * call. */
const char *kv_builder_output(kv_builder *builder, size_t *size);
void kv_builder_taken(kv_builder *builder);
/* The first and the last key added so far; NULL before. */
const char *kv_builder_key(kv_builder *builder, int last, size_t *length);
void kv_builder_info_get(kv_builder *builder, kv_builder_info *out);

#endif
