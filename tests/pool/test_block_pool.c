#include <stdlib.h>
#include <string.h>

#include "pool/bit_tree.h"
#include "pool/block_pool.h"
#include "pool/scrub_queue.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

START_TEST(a_bit_tree_finds_the_least_whatever_its_depth)
{
    static const uint32_t sizes[] = {1, 63, 64, 65, 4096, 4097, 262145};

    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint32_t n = sizes[s];
        struct bit_tree tree;

        ck_assert_int_eq(bit_tree_init(&tree, n), KV_OK);
        ck_assert_uint_eq(bit_tree_least(&tree), BIT_TREE_NONE);
        bit_tree_add_run(&tree, 0, n);
        for (uint32_t i = 0; i < n; i++) {
            if (bit_tree_least(&tree) != i)
                ck_abort_msg("%u is not the least of %u", i, n);
            bit_tree_remove(&tree, i);
        }
        ck_assert_uint_eq(bit_tree_least(&tree), BIT_TREE_NONE);
        for (uint32_t i = n; i-- > 0;) {
            bit_tree_add(&tree, i);
            if (bit_tree_least(&tree) != i)
                ck_abort_msg("%u is not the least of %u", i, n);
        }
        bit_tree_fini(&tree);
    }
}
END_TEST

START_TEST(a_bit_tree_agrees_with_an_array)
{
    enum { N = 5000 };
    static bool there[N];
    struct bit_tree tree;

    srand(7);
    ck_assert_int_eq(bit_tree_init(&tree, N), KV_OK);
    for (int step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)(rand() % N), n = 1;
        bool add = rand() % 3 == 0;
        uint32_t least = 0;

        if (add && rand() % 8 == 0)
            n = 1 + (uint32_t)rand() % (N - i);
        if (add)
            bit_tree_add_run(&tree, i, n);
        else
            bit_tree_remove(&tree, i);
        for (uint32_t j = i; j < i + n; j++)
            there[j] = add;
        if (step % 16 != 0)
            continue;
        while (least < N && !there[least])
            least++;
        ck_assert_uint_eq(
            bit_tree_least(&tree), least == N ? BIT_TREE_NONE : least);
        ck_assert_int_eq(bit_tree_has(&tree, i), there[i]);
    }
    bit_tree_fini(&tree);
}
END_TEST

static struct block_pool blocks;

static void open_blocks(uint32_t n)
{
    ck_assert_int_eq(block_pool_init(&blocks, 64, n, NULL), KV_OK);
}

START_TEST(a_bit_tree_finds_the_next_word_of_members)
{
    struct bit_tree tree;

    ck_assert_int_eq(bit_tree_init(&tree, 5000), KV_OK);
    bit_tree_add_run(&tree, 3, 4);
    bit_tree_add(&tree, 700);
    bit_tree_add(&tree, 4999);
    ck_assert_uint_eq(bit_tree_word_after(&tree, 3), 700);
    ck_assert_uint_eq(bit_tree_word_after(&tree, 64), 700);
    ck_assert_uint_eq(bit_tree_word_after(&tree, 700), BIT_TREE_NONE);
    ck_assert_uint_eq(bit_tree_word_after(&tree, 4095), BIT_TREE_NONE);
    ck_assert_uint_eq(bit_tree_word_after(&tree, 4096), 4999);
    bit_tree_fini(&tree);
    ck_assert_int_eq(bit_tree_init(&tree, 10), KV_OK);
    bit_tree_add_run(&tree, 0, 10);
    ck_assert_uint_eq(bit_tree_word_after(&tree, 0), BIT_TREE_NONE);
    bit_tree_fini(&tree);
}
END_TEST

START_TEST(a_block_is_handed_out_next_to_the_one_before_or_lowest)
{
    open_blocks(8);
    ck_assert_uint_eq(block_pool_acquire(&blocks, 0, 1).first, 0);
    ck_assert_uint_eq(block_pool_acquire(&blocks, 5, 1).first, 5);
    ck_assert_uint_eq(block_pool_acquire(&blocks, 5, 1).first, 1);
    ck_assert_uint_eq(block_pool_acquire(&blocks, 8, 1).first, 2);
    ck_assert_uint_eq(blocks.n_used, 4);
    block_pool_fini(&blocks);
}
END_TEST

START_TEST(a_block_with_two_references_survives_the_first_release)
{
    struct block_run run;
    struct block_sweep sweep;
    pool_block_id id;

    open_blocks(4);
    id = block_pool_acquire(&blocks, 0, 1).first;
    block_pool_set_tokens(&blocks, id, 3);
    block_pool_retain(&blocks, id);
    ck_assert_uint_eq(blocks.n_shared, 1);
    ck_assert(!block_pool_release(&blocks, id));
    ck_assert_uint_eq(blocks.n_shared, 0);
    sweep = block_pool_sweep(&blocks, &run, 1);
    ck_assert_uint_eq(sweep.n_runs, 0);
    ck_assert_uint_eq(blocks.n_used, 1);
    ck_assert(block_pool_release(&blocks, id));
    ck_assert_uint_eq(blocks.n_used, 1);
    sweep = block_pool_sweep(&blocks, &run, 1);
    ck_assert_uint_eq(sweep.n_runs, 1);
    ck_assert_uint_eq(sweep.n_tokens, 3);
    ck_assert_uint_eq(blocks.n_used, 0);
    ck_assert_uint_eq(blocks.n_scrubbing, 1);
    block_pool_fini(&blocks);
}
END_TEST

START_TEST(a_sweep_gives_ascending_runs_that_do_not_touch)
{
    static const pool_block_id order[] = {6, 1, 7, 2, 9, 4, 0};
    struct block_run runs[2];
    struct block_sweep sweep;

    open_blocks(10);
    for (int i = 0; i < 10; i++)
        block_pool_acquire(&blocks, 0, 1);
    ck_assert_uint_eq(blocks.n_free_runs, 0);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        ck_assert(block_pool_release(&blocks, order[i]));
    ck_assert_uint_eq(block_pool_n_leaving(&blocks), 4);

    sweep = block_pool_sweep(&blocks, runs, 2);
    ck_assert_uint_eq(sweep.n_runs, 2);
    ck_assert_uint_eq(sweep.n_blocks, 4);
    ck_assert_uint_eq(runs[0].first, 0);
    ck_assert_uint_eq(runs[0].n, 3);
    ck_assert_uint_eq(runs[1].first, 4);
    ck_assert_uint_eq(blocks.n_free_runs, 2);
    sweep = block_pool_sweep(&blocks, runs, 2);
    ck_assert_uint_eq(sweep.n_runs, 2);
    ck_assert_uint_eq(runs[0].first, 6);
    ck_assert_uint_eq(runs[0].n, 2);
    ck_assert_uint_eq(runs[1].first, 9);
    ck_assert_uint_eq(blocks.n_free_runs, 4);
    block_pool_fini(&blocks);
}
END_TEST

START_TEST(a_scrubbing_block_is_not_handed_out_until_it_is_zeroed)
{
    struct block_run run;

    open_blocks(2);
    block_pool_acquire(&blocks, 0, 1);
    block_pool_release(&blocks, 0);
    block_pool_sweep(&blocks, &run, 1);
    ck_assert_uint_eq(blocks.n_free_runs, 1);
    ck_assert_uint_eq(block_pool_acquire(&blocks, 0, 1).first, 1);
    ck_assert_uint_eq(blocks.n_free, 0);
    block_pool_free(&blocks, &(struct pool_extent){0, 64});
    ck_assert_uint_eq(block_pool_acquire(&blocks, 0, 1).first, 0);
    block_pool_fini(&blocks);
}
END_TEST

START_TEST(scrub_jobs_come_out_in_order_and_go_back_in_any)
{
    enum { BLOCKS = 40 };
    struct block unused[BLOCKS] = {0};
    struct scrub_queue queue;
    struct pool_scrub jobs[POOL_SCRUBS_OUT], job;

    ck_assert_int_eq(scrub_queue_init(&queue, 64, unused), KV_OK);
    ck_assert(!scrub_queue_next(&queue, &job));
    for (uint64_t round = 0, id = 0; round < 5; round++) {
        for (uint32_t i = 0; i < BLOCKS; i += 2) {
            const struct block_run runs[] = {{i, 1}, {i + 1, 1}};

            ck_assert_uint_eq(scrub_queue_push(&queue, runs, 2),
                round * BLOCKS / 2 + i / 2 + 1);
        }
        for (int i = 0; i < BLOCKS / 2; i++) {
            ck_assert(scrub_queue_next(&queue, &jobs[i]));
            ck_assert_uint_eq(jobs[i].scrub_id, ++id);
            ck_assert_uint_eq(jobs[i].n_extents, 2);
            ck_assert_uint_eq(jobs[i].extents[1].offset, 64 * (2 * i + 1));
        }
        for (int i = BLOCKS / 2; i-- > 0;)
            scrub_queue_done(&queue, jobs[i].scrub_id);
    }
    ck_assert(!scrub_queue_has_out(&queue));
    scrub_queue_fini(&queue);
}
END_TEST

START_TEST(a_scrub_job_has_its_runs_however_long_they_are)
{
    const struct block_run first[] = {{5, 1}, {7, 2}};
    const struct block_run second[] = {{0, 5}, {9, 31}};
    const struct pool_extent first_bytes[] = {{5 * 64, 64}, {7 * 64, 2 * 64}};
    const struct pool_extent second_bytes[] = {{0, 5 * 64}, {9 * 64, 31 * 64}};
    struct block unused[40] = {0};
    struct scrub_queue queue;
    struct pool_scrub job;

    ck_assert_int_eq(scrub_queue_init(&queue, 64, unused), KV_OK);
    scrub_queue_push(&queue, first, 2);
    scrub_queue_push(&queue, second, 2);
    for (size_t id = 0; id < 40; id++)
        ck_assert_uint_eq(unused[id].n_refs, 0);
    ck_assert(scrub_queue_next(&queue, &job));
    ck_assert_uint_eq(job.n_extents, 2);
    ck_assert_mem_eq(job.extents, first_bytes, sizeof first_bytes);
    ck_assert(scrub_queue_next(&queue, &job));
    ck_assert_uint_eq(job.n_extents, 2);
    ck_assert_mem_eq(job.extents, second_bytes, sizeof second_bytes);
    scrub_queue_fini(&queue);
}
END_TEST

START_TEST(no_more_scrub_jobs_are_out_than_there_are_hands)
{
    struct block unused[POOL_SCRUBS_OUT + 1] = {0};
    struct scrub_queue queue;
    struct pool_scrub job;

    ck_assert_int_eq(scrub_queue_init(&queue, 64, unused), KV_OK);
    for (uint32_t i = 0; i < POOL_SCRUBS_OUT + 1; i++)
        scrub_queue_push(&queue, &(struct block_run){i, 1}, 1);
    for (int i = 0; i < POOL_SCRUBS_OUT; i++)
        ck_assert(scrub_queue_next(&queue, &job));
    ck_assert(!scrub_queue_next(&queue, &job));
    scrub_queue_done(&queue, 3);
    ck_assert(scrub_queue_next(&queue, &job));
    ck_assert_uint_eq(job.scrub_id, POOL_SCRUBS_OUT + 1);
    scrub_queue_fini(&queue);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_bit_tree_finds_the_least_whatever_its_depth,
        a_bit_tree_agrees_with_an_array,
        a_bit_tree_finds_the_next_word_of_members,
        a_block_is_handed_out_next_to_the_one_before_or_lowest,
        a_block_with_two_references_survives_the_first_release,
        a_sweep_gives_ascending_runs_that_do_not_touch,
        a_scrubbing_block_is_not_handed_out_until_it_is_zeroed,
        scrub_jobs_come_out_in_order_and_go_back_in_any,
        a_scrub_job_has_its_runs_however_long_they_are,
        no_more_scrub_jobs_are_out_than_there_are_hands};

    return CHECK_RUN("block_pool", NULL, NULL, tests);
}
