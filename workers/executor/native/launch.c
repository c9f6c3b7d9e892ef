/* The two steps that each task costs a spawner, each in one call: start a process, and collect one that
 * ended. Optional: without it launching.py does the same, step by step. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

/* Both structures are known to __init__.py. */
struct request {
    const char *path;
    uint64_t mark;
    int stdin_fd, nice, cgroup_fd, limit_count;
    struct { int resource; uint64_t soft, hard; } limits[8];
    int pid, pidfd, output_fd, error_fd, progress_fd;
};
struct ended {
    int status;
    int64_t output_size, error_size, progress_size, max_rss_bytes;
    double user_seconds, system_seconds;
};
struct start {
    const struct request *request;
    char **argv, **envp;
    int output, errors, progress, failed, is_outside;
};
/* struct clone_args of linux/sched.h, as Linux 5.7 knows it. */
struct cloning {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};
#define INTO_CGROUP 0x200000000ULL
#ifndef SYS_clone3
#define SYS_clone3 435
#endif

#define BUFFER_BYTES (17 * 65536) /* A pipe holds at most 1 MiB by default. */
char drakkar_output[BUFFER_BYTES], drakkar_errors[BUFFER_BYTES], drakkar_progress[BUFFER_BYTES];

/* This very text, with a zero byte at its end, which __init__.py compares with the file: a library that
 * was built of another release is not used. */
__asm__(".pushsection .rodata\n.globl drakkar_source\ndrakkar_source:\n"
        ".incbin \"" __FILE__ "\"\n.byte 0\n.popsection");

static const int default_signals[] = {SIGPIPE, SIGXFSZ, SIGINT, SIGTERM, SIGHUP};
static char stack[65536] __attribute__((aligned(16)));

/* Put ourselves into the cgroup. Slower than being born in it: the kernel holds up other forks. */
static int enter_cgroup(int folder) {
    int file = openat(folder, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (file < 0) return -1;
    ssize_t count = write(file, "0", 1);
    int problem = errno;
    close(file);
    errno = problem;
    return count == 1 ? 0 : -1;
}

/* Runs in the memory of the spawner, which waits meanwhile. */
static int become(void *argument) {
    struct start *start = argument;
    const struct request *request = start->request;
    struct sigaction standard = {.sa_handler = SIG_DFL};
    struct rlimit limit = {request->mark, RLIM_INFINITY};
    sigset_t none;
    for (size_t i = 0; i < sizeof default_signals / sizeof *default_signals; i++)
        sigaction(default_signals[i], &standard, NULL);
    if (start->is_outside && enter_cgroup(request->cgroup_fd) < 0) goto failed;
    /* No session each: it would take a whole share of the CPU, see sched(7). */
    if (setpgid(0, 0) < 0 || (request->nice && setpriority(PRIO_PROCESS, 0, request->nice) < 0)
        || dup2(request->stdin_fd, 0) < 0 || dup2(start->output, 1) < 0
        || dup2(start->errors, 2) < 0 || dup2(start->progress, 3) < 0
        || setrlimit(RLIMIT_RTTIME, &limit) < 0)
        goto failed;
    for (int i = 0; i < request->limit_count; i++) {
        limit = (struct rlimit){request->limits[i].soft, request->limits[i].hard};
        if (setrlimit(request->limits[i].resource, &limit) < 0) goto failed;
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(request->path, start->argv, start->envp);
failed:
    start->failed = errno;
    _exit(127);
}

static char **split(const char *text, int count, char **items) {
    for (int i = 0; i < count; i++) {
        items[i] = (char *)text;
        text += strlen(text) + 1;
    }
    items[count] = NULL;
    return items + count + 1;
}

/* clone3(2), which libc does not offer: the child runs `become` on a stack of its own and exits. The
 * number of the child, or that of an error, negative. */
static long clone3_of(struct cloning *cloning, struct start *start) {
#if defined __x86_64__
    register long result __asm__("rax") = SYS_clone3;
    register void *first __asm__("rdi") = cloning;
    register long second __asm__("rsi") = sizeof *cloning;
    register struct start *argument __asm__("r12") = start;
    register int (*body)(void *) __asm__("r13") = become;
    __asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tmov %%r12, %%rdi\n\t"
                     "call *%%r13\n\thlt\n1:"
                     : "+r"(result), "+r"(first), "+r"(second)
                     : "r"(argument), "r"(body)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined __aarch64__
    register long number __asm__("x8") = SYS_clone3;
    register long result __asm__("x0") = (long)cloning;
    register long second __asm__("x1") = sizeof *cloning;
    register struct start *argument __asm__("x19") = start;
    register int (*body)(void *) __asm__("x20") = become;
    __asm__ volatile("svc 0\n\tcbnz x0, 1f\n\tmov x29, xzr\n\tmov x0, x19\n\tblr x20\n\tbrk 1\n1:"
                     : "+r"(result), "+r"(second)
                     : "r"(number), "r"(argument), "r"(body)
                     : "memory", "cc");
    return result;
#else
    (void)cloning, (void)start;
    return -ENOSYS;
#endif
}

#define CLONING (CLONE_VM | CLONE_VFORK | CLONE_PIDFD)

/* Have it born in its cgroup; 0 where the kernel, or a filter of system calls, offers no such thing. */
static int start_inside(struct request *request, struct start *start) {
    struct cloning cloning = {
        .flags = CLONING | INTO_CGROUP,
        .pidfd = (uintptr_t)&request->pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uintptr_t)stack,
        .stack_size = sizeof stack,
        .cgroup = request->cgroup_fd,
    };
    long result = clone3_of(&cloning, start);
    if (result == -ENOSYS || result == -E2BIG || result == -EINVAL || result == -EPERM) return 0;
    request->pid = result;
    if (result < 0) start->failed = -result;
    return 1;
}

static int start(struct request *request, struct start *start) {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    if (request->cgroup_fd < 0 || !start_inside(request, start)) {
        start->is_outside = request->cgroup_fd >= 0;
        request->pid = clone(become, stack + sizeof stack, CLONING | SIGCHLD, start, &request->pidfd);
        if (request->pid < 0) start->failed = errno;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (request->pid > 0 && start->failed) {
        waitpid(request->pid, NULL, 0);
        close(request->pidfd);
    }
    return start->failed;
}

static int make_pipes(int output[2], int errors[2], int progress[2]) {
    int code;
    if (pipe2(output, O_CLOEXEC) < 0) return -1;
    if (pipe2(errors, O_CLOEXEC) == 0) {
        if (pipe2(progress, O_CLOEXEC) == 0) return 0;
        code = errno;
        close(errors[0]), close(errors[1]);
        errno = code;
    }
    code = errno;
    close(output[0]), close(output[1]);
    errno = code;
    return -1;
}

/* Start what the request says; 0, or the number of an error. Each string of argv and env ends with a
 * zero byte. Fills in pid, pidfd, output_fd, error_fd and progress_fd. */
int drakkar_start(struct request *request, const char *argv, int argc, const char *env, int envc) {
    struct start one = {.request = request};
    int output[2], errors[2], progress[2];
    char **items = malloc((argc + envc + 2) * sizeof *items);
    if (items == NULL) return ENOMEM;
    one.argv = items;
    one.envp = split(argv, argc, one.argv);
    split(env, envc, one.envp);
    if (make_pipes(output, errors, progress) < 0) {
        one.failed = errno;
    } else {
        one.output = output[1], one.errors = errors[1], one.progress = progress[1];
        start(request, &one);
        request->output_fd = output[0], request->error_fd = errors[0];
        request->progress_fd = progress[0];
        close(output[1]), close(errors[1]), close(progress[1]);
        if (one.failed) close(output[0]), close(errors[0]), close(progress[0]);
    }
    free(items);
    return one.failed;
}

/* What is in a pipe, as much as there is room for; never waits, for it reads no more than is there. */
static int64_t drain(int descriptor, char *buffer) {
    int64_t total = 0;
    int there;
    while (total < BUFFER_BYTES && ioctl(descriptor, FIONREAD, &there) == 0 && there > 0) {
        int64_t room = BUFFER_BYTES - total;
        ssize_t count = read(descriptor, buffer + total, room < there ? room : there);
        if (count <= 0) break;
        total += count;
    }
    return total;
}

/* Kill the group of an ended process, take what it wrote into the three buffers, reap it and close the
 * four descriptors. 0, or the number of an error. */
int drakkar_collect(int pid, int pidfd, int output_fd, int error_fd, int progress_fd,
                    struct ended *ended) {
    struct rusage usage;
    pid_t found;
    kill(-pid, SIGKILL); /* Before reaping: the zombie keeps the group's number from new use. */
    ended->output_size = drain(output_fd, drakkar_output);
    ended->error_size = drain(error_fd, drakkar_errors);
    ended->progress_size = drain(progress_fd, drakkar_progress);
    do found = wait4(pid, &ended->status, 0, &usage);
    while (found < 0 && errno == EINTR);
    if (found < 0) return errno;
    ended->user_seconds = usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6;
    ended->system_seconds = usage.ru_stime.tv_sec + usage.ru_stime.tv_usec / 1e6;
    ended->max_rss_bytes = usage.ru_maxrss * 1024;
    close(pidfd);
    close(output_fd);
    close(error_fd);
    close(progress_fd);
    return 0;
}
