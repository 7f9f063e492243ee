/* Serves the rig's methods to a client of another make: prints its address, and
 * ends when standard input does. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/rpc/rig.h"

extern const unsigned char test_descriptors[], test_descriptors_end[];

int main(void)
{
    const struct rpc_server_config config = {.descriptors = test_descriptors,
        .n_descriptors = (size_t)(test_descriptors_end - test_descriptors)};
    static struct rig rig;

    rig_open(&rig, config, "127.0.0.1:0");
    rpc_server_set_serving(rig.server, "", true);
    rig_start(&rig);
    printf("%s\n", rig.address);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    rig_close(&rig);
    return EXIT_SUCCESS;
}
