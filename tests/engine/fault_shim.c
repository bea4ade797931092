/* Lets the n-th call about files below a folder fail, or be the last of its process. Preloaded; see fault_points.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { MOST = 65536 };
static atomic_long count, at;
static atomic_int how; /* an errno; 0: end before the call; -1: end with half of what is written */
static char root[4096];
static atomic_char ours[MOST]; /* open files below the folder */

void fault_arm(const char *folder, long n, int what) {
  strncpy(root, folder, sizeof root - 1);
  how = what;
  count = 0;
  at = n;
}
long fault_count(void) { return count; }

/* Whether the call is to fail; -1 where it is to end in its middle. */
static int fails(int mine) {
  if (!mine || !root[0] || atomic_fetch_add(&count, 1) + 1 != at) return 0;
  if (how == 0) _exit(9);
  if (how < 0) return -1;
  errno = how;
  return 1;
}
static int below(const char *path) { return root[0] && path && strstr(path, root) != NULL; }
static int known(int fd) { return fd >= 0 && fd < MOST && ours[fd]; }
static int opened(int fd, int mine) {
  if (fd >= 0 && fd < MOST) ours[fd] = (char)mine;
  return fd;
}
#define REAL(name, type) \
  static __typeof__(type) real; \
  if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

#define OPEN(NAME) \
  int NAME(const char *path, int flags, ...) { \
    REAL(#NAME, int (*)(const char *, int, ...)); \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    int mine = below(path); \
    if (fails(mine)) { if (how < 0) _exit(9); return -1; } \
    return opened(real(path, flags, mode), mine); \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(NAME) \
  int NAME(int folder, const char *path, int flags, ...) { \
    REAL(#NAME, int (*)(int, const char *, int, ...)); \
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    int mine = below(path); \
    if (fails(mine)) { if (how < 0) _exit(9); return -1; } \
    return opened(real(folder, path, flags, mode), mine); \
  }
OPENAT(openat)
OPENAT(openat64)
int close(int fd) {
  REAL("close", int (*)(int));
  if (fd >= 0 && fd < MOST) ours[fd] = 0;
  return real(fd);
}
#define ON_FD(NAME, KIND, SIGNATURE, CALL) \
  KIND NAME SIGNATURE { \
    REAL(#NAME, KIND (*) SIGNATURE); \
    if (fails(known(fd))) { if (how < 0) _exit(9); return -1; } \
    return real CALL; \
  }
ON_FD(read, ssize_t, (int fd, void *to, size_t size), (fd, to, size))
ON_FD(pread, ssize_t, (int fd, void *to, size_t size, off_t place), (fd, to, size, place))
ON_FD(pread64, ssize_t, (int fd, void *to, size_t size, off64_t place), (fd, to, size, place))
ON_FD(fsync, int, (int fd), (fd))
ON_FD(fdatasync, int, (int fd), (fd))
ON_FD(ftruncate, int, (int fd, off_t size), (fd, size))
ON_FD(ftruncate64, int, (int fd, off64_t size), (fd, size))
#define WRITE(NAME, SIGNATURE, HALF, CALL) \
  ssize_t NAME SIGNATURE { \
    REAL(#NAME, ssize_t (*) SIGNATURE); \
    if (fails(known(fd))) { if (how < 0) { real HALF; _exit(9); } return -1; } \
    return real CALL; \
  }
WRITE(write, (int fd, const void *from, size_t size), (fd, from, size / 2), (fd, from, size))
WRITE(pwrite, (int fd, const void *from, size_t size, off_t place), (fd, from, size / 2, place), (fd, from, size, place))
WRITE(pwrite64, (int fd, const void *from, size_t size, off64_t place), (fd, from, size / 2, place),
      (fd, from, size, place))
#define ON_PATH(NAME, SIGNATURE, PATH, CALL) \
  int NAME SIGNATURE { \
    REAL(#NAME, int (*) SIGNATURE); \
    if (fails(below(PATH))) { if (how < 0) _exit(9); return -1; } \
    return real CALL; \
  }
ON_PATH(rename, (const char *from, const char *to), from, (from, to))
ON_PATH(renameat, (int a, const char *from, int b, const char *to), from, (a, from, b, to))
ON_PATH(unlink, (const char *path), path, (path))
ON_PATH(unlinkat, (int folder, const char *path, int flags), path, (folder, path, flags))
ON_PATH(mkdir, (const char *path, mode_t mode), path, (path, mode))
ON_PATH(rmdir, (const char *path), path, (path))
