#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/streams.h"
#include "cli/cli.h"

int main(int argc, char **argv)
{
    struct cli cli = {
        .in = stdin,
        .out = stdout,
        .err = stderr,
        .in_tty = isatty(STDIN_FILENO),
        .out_tty = isatty(STDOUT_FILENO),
        .err_tty = isatty(STDERR_FILENO),
        .server = getenv("KVPOOL_SERVER"),
    };
    struct kv_error error;
    enum cli_exit code;

    kv_streams_fill();
    signal(SIGPIPE, SIG_IGN);
    if (interrupt_open(&cli.interrupt, &error) != KV_OK)
        return (int)cli_fail(&cli, CLI_FAILED, "%s", error.text);
    code = cli_run(&cli, argc, argv);
    interrupt_close(cli.interrupt);
    return (int)code;
}
