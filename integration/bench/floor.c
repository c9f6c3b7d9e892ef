/* The floor of spawning: a thread per slot, vfork semantics, stdout and stderr captured.
 *
 * usage: floor PROGRAM TASKS SLOTS
 * Prints one JSON line: seconds of wall time, and the CPU seconds of the programs by wait4.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static char *program;
static atomic_long left;
static atomic_long failed;
static atomic_long program_us;

static void drain(int out, int err) {
    char buffer[65536];
    struct pollfd ends[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    int open_ends = 2;
    while (open_ends > 0) {
        if (poll(ends, 2, -1) < 0 && errno != EINTR) return;
        for (int i = 0; i < 2; i++) {
            if (ends[i].fd < 0 || ends[i].revents == 0) continue;
            if (read(ends[i].fd, buffer, sizeof buffer) <= 0) {
                ends[i].fd = -1;
                open_ends--;
            }
        }
    }
}

static int start(pid_t *pid, int out, int err) {
    char *argv[] = {program, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, err, 2);
    /* glibc's posix_spawn is clone(CLONE_VM | CLONE_VFORK): no page tables are copied. */
    int code = posix_spawn(pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

static int run_one(void) {
    int out[2], err[2], status = 0;
    pid_t pid;
    struct rusage usage;
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) return -1;
    int code = start(&pid, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    if (code == 0) drain(out[0], err[0]);
    close(out[0]);
    close(err[0]);
    if (code != 0 || wait4(pid, &status, 0, &usage) != pid) return -1;
    atomic_fetch_add(&program_us, (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000L +
                                      usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static void *slot(void *unused) {
    (void)unused;
    while (atomic_fetch_sub(&left, 1) > 0)
        if (run_one() != 0) atomic_fetch_add(&failed, 1);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: floor PROGRAM TASKS SLOTS\n");
        return 2;
    }
    program = argv[1];
    atomic_store(&left, atol(argv[2]));
    int slots = atoi(argv[3]);
    pthread_t *threads = calloc((size_t)slots, sizeof *threads);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < slots; i++)
        if (pthread_create(&threads[i], NULL, slot, NULL) != 0) return 1;
    for (int i = 0; i < slots; i++) pthread_join(threads[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    free(threads);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("{\"seconds\": %.6f, \"program_cpu_seconds\": %.6f, \"failed\": %ld}\n", seconds,
           atomic_load(&program_us) / 1e6, atomic_load(&failed));
    return 0;
}
