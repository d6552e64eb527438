/* Loaded before the C library: the nth call of a kind fails, and what it should have done is not done; or the process
 * is killed there, before the call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NONE, SYNC, WRITE, TRUNCATE, SYNC_FOLDER, RENAME, ANY };
enum { KILL = -1 };
static int armed = NONE, left = 0, code = 0, fired = 0;

/* Make the nth call of `kind` (ANY: of all) fail with `error` (KILL: be the last); 0 disarms. Returns how many failed since the last arming. */
int fault_arm(int kind, int nth, int error) {
    int before = fired;
    armed = kind, left = nth, code = error, fired = 0;
    return before;
}

static int fails(int kind) {
    if ((armed != ANY && kind != armed) || --left != 0) return 0;
    fired++;
    if (code == KILL) kill(getpid(), SIGKILL);
    errno = code;
    return 1;
}

static int kind_of_sync(int fd) {
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISDIR(found.st_mode) ? SYNC_FOLDER : SYNC;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd) { REAL(fsync); return fails(kind_of_sync(fd)) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return fails(kind_of_sync(fd)) ? -1 : real(fd); }
ssize_t write(int fd, const void *from, size_t n) { REAL(write); return fails(WRITE) ? -1 : real(fd, from, n); }
ssize_t pwrite(int fd, const void *from, size_t n, off_t at) { REAL(pwrite); return fails(WRITE) ? -1 : real(fd, from, n, at); }
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) { REAL(pwrite64); return fails(WRITE) ? -1 : real(fd, from, n, at); }
int ftruncate(int fd, off_t to) { REAL(ftruncate); return fails(TRUNCATE) ? -1 : real(fd, to); }
int ftruncate64(int fd, off64_t to) { REAL(ftruncate64); return fails(TRUNCATE) ? -1 : real(fd, to); }
int rename(const char *from, const char *to) { REAL(rename); return fails(RENAME) ? -1 : real(from, to); }
