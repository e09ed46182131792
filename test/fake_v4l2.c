/* A webcam for tests: with LD_PRELOAD, files named video* in the folder $FAKE_V4L2 act as V4L2 devices.
 *
 * It answers the system calls that OpenCV and rlfp_ros/drivers/v4l2.py make, as Linux's uvcvideo driver does. Plugging in
 * is making the file, unplugging is deleting it. Words in the file change the device while it runs:
 *
 *   first line   the camera's name
 *   forbidden    the user may not open it
 *   metadata     a device that captures no video: UVC cameras have a second one of this kind
 *   busy         another program streams from it
 *   stalled      one more image comes, and then none until the program starts the stream anew
 *   realtime     stamps are of CLOCK_REALTIME (uvcvideo clock=realtime)
 *   ahead        stamps are of no clock that exists
 *   damaged      JPEG images are cut off
 *
 * $FAKE_V4L2_JPEG is the image in MJPG. Each image's stamp is $FAKE_V4L2_DELAY_US before it is delivered. $FAKE_V4L2_LOG
 * gets a line "image SEQUENCE STAMP_US" for each image and "set IDENTIFIER VALUE" for each control that was set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define BUFFERS 4
#define DEVICES 256

static const struct { unsigned fourcc, width, height, rates[2]; } MODES[] = {
    {V4L2_PIX_FMT_YUYV, 640, 480, {30, 0}},
    {V4L2_PIX_FMT_YUYV, 1280, 720, {10, 0}},
    {V4L2_PIX_FMT_MJPEG, 640, 480, {30, 15}},
    {V4L2_PIX_FMT_MJPEG, 1280, 720, {30, 0}},
};
#define MODE_COUNT (sizeof MODES / sizeof *MODES)

static struct { unsigned id, type; const char *name; int minimum, maximum, step, value; } CONTROLS[] = {
    {V4L2_CID_BRIGHTNESS, V4L2_CTRL_TYPE_INTEGER, "Brightness", 0, 255, 1, 128},
    {V4L2_CID_AUTO_WHITE_BALANCE, V4L2_CTRL_TYPE_BOOLEAN, "White Balance, Automatic", 0, 1, 1, 1},
    {V4L2_CID_POWER_LINE_FREQUENCY, V4L2_CTRL_TYPE_MENU, "Power Line Frequency", 0, 2, 1, 2},
    {V4L2_CID_WHITE_BALANCE_TEMPERATURE, V4L2_CTRL_TYPE_INTEGER, "White Balance Temperature", 2800, 6500, 10, 4000},
    {V4L2_CID_EXPOSURE_AUTO, V4L2_CTRL_TYPE_MENU, "Auto Exposure", 0, 3, 1, 3},
    {V4L2_CID_EXPOSURE_ABSOLUTE, V4L2_CTRL_TYPE_INTEGER, "Exposure Time, Absolute", 3, 2047, 1, 250},
    {V4L2_CID_EXPOSURE_AUTO_PRIORITY, V4L2_CTRL_TYPE_BOOLEAN, "Exposure, Dynamic Framerate", 0, 1, 1, 1},
    {V4L2_CID_FOCUS_ABSOLUTE, V4L2_CTRL_TYPE_INTEGER, "Focus, Absolute", 0, 250, 5, 0},
    {V4L2_CID_FOCUS_AUTO, V4L2_CTRL_TYPE_BOOLEAN, "Focus, Automatic Continuous", 0, 1, 1, 1},
};
#define CONTROL_COUNT (sizeof CONTROLS / sizeof *CONTROLS)

static struct device {
    int used, owns, rate, first, waiting;
    unsigned mode, sequence;
    char path[PATH_MAX];
    unsigned char *buffer[BUFFERS];
    unsigned queue[BUFFERS]; /* of buffers that the program has given back */
} devices[DEVICES];

static int (*real_open)(const char *, int, ...);
static int (*real_ioctl)(int, unsigned long, ...);
static int (*real_close)(int);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);

__attribute__((constructor)) static void find_real_calls(void) {
    real_open = dlsym(RTLD_NEXT, "open");
    real_ioctl = dlsym(RTLD_NEXT, "ioctl");
    real_close = dlsym(RTLD_NEXT, "close");
    real_mmap = dlsym(RTLD_NEXT, "mmap");
}

static struct device *device_of(int fd) {
    return fd >= 0 && fd < DEVICES && devices[fd].used ? &devices[fd] : NULL;
}

static void note(const char *format, ...) {
    const char *path = getenv("FAKE_V4L2_LOG");
    int file = path ? real_open(path, O_WRONLY | O_APPEND | O_CREAT, 0644) : -1;
    if (file < 0) return;
    va_list values;
    va_start(values, format);
    vdprintf(file, format, values);
    va_end(values);
    real_close(file);
}

/* The content of a device's file; 0 if it is unplugged. */
static int content(const struct device *device, char *text, size_t size) {
    int file = real_open(device->path, O_RDONLY);
    if (file < 0) return 0;
    ssize_t length = read(file, text, size - 1);
    text[length > 0 ? length : 0] = 0;
    real_close(file);
    return 1;
}

/* Return a new file descriptor, -1 for a file that is no fake device, or -2 and errno if it may not be opened. */
static int open_device(const char *given) {
    const char *folder = getenv("FAKE_V4L2");
    char path[PATH_MAX], root[PATH_MAX];
    if (!folder || !realpath(folder, root) || !realpath(given, path)) return -1;
    char *name = strrchr(path, '/');
    if (!name || strncmp(name, "/video", 6) || strncmp(path, root, strlen(root)) || name != path + strlen(root)) return -1;
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd < 0 || fd >= DEVICES) return -1;
    memset(&devices[fd], 0, sizeof devices[fd]);
    strcpy(devices[fd].path, path);
    devices[fd].used = 1;
    devices[fd].rate = 30;
    char text[500];
    if (content(&devices[fd], text, sizeof text) && strstr(text, "\nforbidden")) {
        devices[fd].used = 0;
        real_close(fd);
        return errno = EACCES, -2;
    }
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list values;
    va_start(values, flags);
    int mode = va_arg(values, int), fd = open_device(path);
    va_end(values);
    return fd >= 0 ? fd : fd == -2 ? -1 : real_open(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list values;
    va_start(values, flags);
    int mode = va_arg(values, int), fd = open_device(path);
    va_end(values);
    return fd >= 0 ? fd : fd == -2 ? -1 : real_open(path, flags | O_LARGEFILE, mode);
}

int close(int fd) {
    if (device_of(fd)) devices[fd].used = devices[fd].owns = 0;
    return real_close(fd);
}

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    struct device *device = device_of(fd);
    if (!device) return real_mmap(at, length, protection, flags, fd, offset);
    unsigned index = offset >> 24;
    if (index >= BUFFERS) return errno = EINVAL, MAP_FAILED;
    void *memory = real_mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    device->buffer[index] = memory;
    return memory;
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return map(at, length, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    return map(at, length, protection, flags, fd, offset);
}

/* Whoever sets a format first owns the stream until it closes the device, as uvcvideo's "privileges". */
static int claims(struct device *device) {
    for (int other = 0; other < DEVICES; other++)
        if (devices[other].used && devices[other].owns && &devices[other] != device && !strcmp(devices[other].path, device->path))
            return 0;
    return device->owns = 1;
}

static unsigned image_size(const struct device *device) {
    return 2 * MODES[device->mode].width * MODES[device->mode].height;
}

static void set_format(struct device *device, struct v4l2_pix_format *pix) {
    unsigned best = 0, fit = 0;
    for (unsigned i = 0; i < MODE_COUNT; i++) {
        unsigned score = 1 + 2 * (MODES[i].fourcc == pix->pixelformat) +
                         (MODES[i].width == pix->width && MODES[i].height == pix->height);
        if (score > fit) fit = score, best = i;
    }
    device->mode = best;
    device->rate = MODES[best].rates[0];
}

static void describe(const struct device *device, struct v4l2_pix_format *pix) {
    memset(pix, 0, sizeof *pix);
    pix->width = MODES[device->mode].width;
    pix->height = MODES[device->mode].height;
    pix->pixelformat = MODES[device->mode].fourcc;
    pix->field = V4L2_FIELD_NONE;
    pix->bytesperline = pix->pixelformat == V4L2_PIX_FMT_MJPEG ? 0 : 2 * pix->width;
    pix->sizeimage = image_size(device);
}

static int take_image(struct device *device, int fd, struct v4l2_buffer *buffer, const char *text) {
    unsigned long long ticks;
    if (read(fd, &ticks, sizeof ticks) != sizeof ticks) return errno = EAGAIN, -1;
    device->sequence += ticks;
    if (strstr(text, "\nstalled")) {
        struct itimerspec never = {{0, 0}, {0, 0}};
        timerfd_settime(fd, 0, &never, NULL);
    }
    if (!device->waiting) return errno = EAGAIN, -1;
    unsigned index = device->queue[device->first];
    device->first = (device->first + 1) % BUFFERS;
    device->waiting--;
    unsigned char *pixels = device->buffer[index];
    unsigned length = image_size(device);
    if (MODES[device->mode].fourcc == V4L2_PIX_FMT_MJPEG) {
        int file = real_open(getenv("FAKE_V4L2_JPEG"), O_RDONLY);
        length = file < 0 ? 0 : read(file, pixels, length);
        real_close(file);
        if (strstr(text, "\ndamaged")) length /= 2;
    } else {
        for (unsigned i = 0; i < length; i += 2) pixels[i] = 60, pixels[i + 1] = 128; /* dark grey */
    }
    struct timespec now;
    clock_gettime(strstr(text, "\nrealtime") ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now);
    const char *delay = getenv("FAKE_V4L2_DELAY_US");
    long long stamp = now.tv_sec * 1000000LL + now.tv_nsec / 1000 - (delay ? atoll(delay) : 0);
    if (strstr(text, "\nahead")) stamp += 500 * 1000000LL;
    note("image %u %lld\n", device->sequence, stamp);
    buffer->index = index;
    buffer->bytesused = length;
    buffer->length = image_size(device);
    buffer->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_TSTAMP_SRC_SOE;
    buffer->field = V4L2_FIELD_NONE;
    buffer->sequence = device->sequence;
    buffer->timestamp.tv_sec = stamp / 1000000;
    buffer->timestamp.tv_usec = stamp % 1000000;
    return 0;
}

static int set_control(unsigned id, int value) {
    for (unsigned i = 0; i < CONTROL_COUNT; i++) {
        if (CONTROLS[i].id != id) continue;
        int automatic = id == V4L2_CID_EXPOSURE_ABSOLUTE ? CONTROLS[4].value != V4L2_EXPOSURE_MANUAL
                        : id == V4L2_CID_WHITE_BALANCE_TEMPERATURE ? CONTROLS[1].value
                        : id == V4L2_CID_FOCUS_ABSOLUTE ? CONTROLS[8].value : 0;
        if (automatic) return errno = EIO, -1;
        if (id == V4L2_CID_EXPOSURE_AUTO && value != V4L2_EXPOSURE_MANUAL && value != V4L2_EXPOSURE_APERTURE_PRIORITY)
            return errno = EINVAL, -1;
        CONTROLS[i].value = value - (value - CONTROLS[i].minimum) % CONTROLS[i].step;
        note("set %#x %d\n", id, CONTROLS[i].value);
        return 0;
    }
    return errno = EINVAL, -1;
}

static int query_control(struct v4l2_queryctrl *query) {
    unsigned asked = query->id & ~V4L2_CTRL_FLAG_NEXT_CTRL, next = query->id & V4L2_CTRL_FLAG_NEXT_CTRL;
    for (unsigned i = 0; i < CONTROL_COUNT; i++) {
        if (next ? CONTROLS[i].id <= asked : CONTROLS[i].id != asked) continue;
        memset(query, 0, sizeof *query);
        query->id = CONTROLS[i].id;
        query->type = CONTROLS[i].type;
        strcpy((char *)query->name, CONTROLS[i].name);
        query->minimum = CONTROLS[i].minimum;
        query->maximum = CONTROLS[i].maximum;
        query->step = CONTROLS[i].step;
        return 0;
    }
    return errno = EINVAL, -1;
}

static int query_menu(struct v4l2_querymenu *query) {
    static const char *LINE[] = {"Disabled", "50 Hz", "60 Hz"}, *EXPOSURE[] = {NULL, "Manual Mode", NULL, "Aperture Priority Mode"};
    const char **texts = query->id == V4L2_CID_EXPOSURE_AUTO ? EXPOSURE : LINE;
    if (query->index > (query->id == V4L2_CID_EXPOSURE_AUTO ? 3 : 2) || !texts[query->index]) return errno = EINVAL, -1;
    strcpy((char *)query->name, texts[query->index]);
    return 0;
}

static int list_formats(struct v4l2_fmtdesc *format) {
    static const unsigned FOURCC[] = {V4L2_PIX_FMT_YUYV, V4L2_PIX_FMT_MJPEG};
    if (format->index > 1) return errno = EINVAL, -1;
    format->pixelformat = FOURCC[format->index];
    return 0;
}

static int list_sizes(struct v4l2_frmsizeenum *size) {
    unsigned count = 0;
    for (unsigned i = 0; i < MODE_COUNT; i++) {
        if (MODES[i].fourcc != size->pixel_format || count++ != size->index) continue;
        size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        size->discrete.width = MODES[i].width;
        size->discrete.height = MODES[i].height;
        return 0;
    }
    return errno = EINVAL, -1;
}

static int list_rates(struct v4l2_frmivalenum *interval) {
    for (unsigned i = 0; i < MODE_COUNT; i++) {
        if (MODES[i].fourcc != interval->pixel_format || MODES[i].width != interval->width) continue;
        if (interval->index > 1 || !MODES[i].rates[interval->index]) break;
        interval->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        interval->discrete.numerator = 1;
        interval->discrete.denominator = MODES[i].rates[interval->index];
        return 0;
    }
    return errno = EINVAL, -1;
}

static int answer(struct device *device, int fd, unsigned request, void *argument) {
    char text[500];
    if (!content(device, text, sizeof text)) return errno = ENODEV, -1;
    int busy = strstr(text, "\nbusy") != NULL;
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *capability = argument;
        memset(capability, 0, sizeof *capability);
        strcpy((char *)capability->driver, "uvcvideo");
        snprintf((char *)capability->card, sizeof capability->card, "%.*s", (int)strcspn(text, "\n"), text);
        capability->device_caps = V4L2_CAP_STREAMING | (strstr(text, "\nmetadata") ? V4L2_CAP_META_CAPTURE : V4L2_CAP_VIDEO_CAPTURE);
        capability->capabilities = V4L2_CAP_DEVICE_CAPS | V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_META_CAPTURE | V4L2_CAP_STREAMING;
        return 0;
    }
    case VIDIOC_ENUM_FMT: return list_formats(argument);
    case VIDIOC_ENUM_FRAMESIZES: return list_sizes(argument);
    case VIDIOC_ENUM_FRAMEINTERVALS: return list_rates(argument);
    case VIDIOC_S_FMT:
        if (busy || !claims(device)) return errno = EBUSY, -1;
        set_format(device, &((struct v4l2_format *)argument)->fmt.pix);
        /* fall through */
    case VIDIOC_G_FMT: describe(device, &((struct v4l2_format *)argument)->fmt.pix); return 0;
    case VIDIOC_S_PARM: {
        struct v4l2_fract *period = &((struct v4l2_streamparm *)argument)->parm.capture.timeperframe;
        int wanted = period->numerator ? period->denominator / period->numerator : 30;
        const unsigned *rates = MODES[device->mode].rates;
        device->rate = rates[1] && abs(wanted - (int)rates[1]) < abs(wanted - (int)rates[0]) ? rates[1] : rates[0];
        /* fall through */
    }
    case VIDIOC_G_PARM: {
        struct v4l2_fract *period = &((struct v4l2_streamparm *)argument)->parm.capture.timeperframe;
        period->numerator = 1;
        period->denominator = device->rate;
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = argument;
        if (busy || !claims(device)) return errno = EBUSY, -1;
        if (wanted->count > BUFFERS) wanted->count = BUFFERS;
        device->first = device->waiting = 0;
        return 0;
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = argument;
        buffer->length = image_size(device);
        buffer->m.offset = buffer->index << 24;
        return 0;
    }
    case VIDIOC_QBUF:
        device->queue[(device->first + device->waiting++) % BUFFERS] = ((struct v4l2_buffer *)argument)->index;
        return 0;
    case VIDIOC_DQBUF: return take_image(device, fd, argument, text);
    case VIDIOC_STREAMON: {
        struct itimerspec period = {{0, 1000000000 / device->rate}, {0, 1000000000 / device->rate}};
        return timerfd_settime(fd, 0, &period, NULL);
    }
    case VIDIOC_STREAMOFF: {
        struct itimerspec never = {{0, 0}, {0, 0}};
        device->waiting = 0;
        return timerfd_settime(fd, 0, &never, NULL);
    }
    case VIDIOC_QUERYCTRL: return query_control(argument);
    case VIDIOC_QUERYMENU: return query_menu(argument);
    case VIDIOC_G_CTRL:
        for (unsigned i = 0; i < CONTROL_COUNT; i++)
            if (CONTROLS[i].id == ((struct v4l2_control *)argument)->id)
                return ((struct v4l2_control *)argument)->value = CONTROLS[i].value, 0;
        return errno = EINVAL, -1;
    case VIDIOC_S_CTRL: return set_control(((struct v4l2_control *)argument)->id, ((struct v4l2_control *)argument)->value);
    }
    return errno = ENOTTY, -1;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list values;
    va_start(values, request);
    void *argument = va_arg(values, void *);
    va_end(values);
    struct device *device = device_of(fd);
    return device ? answer(device, fd, (unsigned)request, argument) : real_ioctl(fd, request, argument);
}
