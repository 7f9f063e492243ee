/* Answers of one turn leave together, and nothing stays behind. */
#include "rpc/cork.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/check_main.h"

static struct rpc_cork cork;

static int open_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(fd, 0);
    return fd;
}

static int is_corked(int fd)
{
    int on = -1;
    socklen_t n = sizeof on;

    ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, &n), 0);
    return on;
}

START_TEST(the_first_answer_goes_at_once_and_the_others_with_the_turn)
{
    int one = open_socket(), other = open_socket();

    ck_assert(!rpc_cork_is_waiting(&cork));
    rpc_cork_before_answer(&cork, one);
    rpc_cork_before_answer(&cork, other);
    ck_assert_int_eq(is_corked(one), 0);
    rpc_cork_before_answer(&cork, one);
    ck_assert_int_eq(is_corked(one), 1);
    ck_assert_int_eq(is_corked(other), 0);
    ck_assert(rpc_cork_is_waiting(&cork));
    rpc_cork_pull(&cork);
    ck_assert_int_eq(is_corked(one), 0);
    ck_assert(!rpc_cork_is_waiting(&cork));
    close(one);
    close(other);
}
END_TEST

START_TEST(a_turn_that_does_not_end_is_full_in_the_end)
{
    int fd = open_socket(), n_answers = 0;

    while (!rpc_cork_is_full(&cork)) {
        rpc_cork_before_answer(&cork, fd);
        ck_assert_int_lt(n_answers++, 1000);
    }
    rpc_cork_pull(&cork);
    ck_assert_int_eq(is_corked(fd), 0);
    close(fd);
}
END_TEST

START_TEST(connections_beyond_the_table_are_left_as_they_are)
{
    int fds[RPC_CORK_CONNECTIONS + 4];
    const int n = sizeof fds / sizeof *fds;

    for (int i = 0; i < n; i++)
        fds[i] = open_socket();
    for (int i = 0; i < 2 * n; i++)
        rpc_cork_before_answer(&cork, fds[i % n]);
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(is_corked(fds[i]), i < RPC_CORK_CONNECTIONS);
    rpc_cork_pull(&cork);
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(is_corked(fds[i]), 0);
        close(fds[i]);
    }
}
END_TEST

START_TEST(what_is_no_tcp_socket_any_more_does_no_harm)
{
    int fd = open_socket(), pair[2];

    rpc_cork_before_answer(&cork, fd);
    rpc_cork_before_answer(&cork, fd);
    close(fd);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    for (int i = 0; i < 3; i++) {
        rpc_cork_before_answer(&cork, pair[0]);
        rpc_cork_before_answer(&cork, -1);
    }
    rpc_cork_pull(&cork);
    close(pair[0]);
    close(pair[1]);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        the_first_answer_goes_at_once_and_the_others_with_the_turn,
        a_turn_that_does_not_end_is_full_in_the_end,
        connections_beyond_the_table_are_left_as_they_are,
        what_is_no_tcp_socket_any_more_does_no_harm,
    };

    return CHECK_RUN("rpc cork", NULL, NULL, tests);
}
