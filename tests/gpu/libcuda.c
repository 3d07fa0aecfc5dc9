/* A fake of NVIDIA's driver library, in host memory: enough of it for service/cuda.py, so that the real cuda-bindings
 * can be called where there is no driver. Everything is done at once, but for what a stream captures. A call that
 * service/cuda.py does not make, or makes wrongly, is an error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef uint64_t Device;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_CONTEXT = 201, NOT_FOUND = 500 };
enum { STREAM = 0x5, EVENT = 0xe, GRAPH = 0x9 };
enum { GATHER = 1, SCATTER = 2, MIX = 3 };

static __thread int current; /* whether the thread has the context */

struct operation {
    int kernel; /* 0: a copy */
    void *to, *from, *places;
    size_t size; /* bytes of a copy; numbers of a row */
    int rows;
};
static struct graph { int kind, count; struct operation operations[64]; } *capture;
static struct handle { int kind; } streams[64], events[64];
static int stream_count, event_count;
static int held; /* what was made and not yet given back */
static void *capturing;

static void perform(const struct operation *o)
{
    if (!o->kernel)
        memcpy(o->to, o->from, o->size);
    for (int row = 0; o->kernel == MIX && row < o->rows; row++) {
        int *place = (int *)o->from + 4 * row;
        float *pool = o->to, *weight = (float *)o->places + 3 * row;
        for (size_t i = 0; i < o->size; i++)
            pool[place[0] * o->size + i] = weight[0] * pool[place[1] * o->size + i] +
                                           weight[1] * pool[place[2] * o->size + i] +
                                           weight[2] * pool[place[3] * o->size + i];
    }
    for (int row = 0; (o->kernel == GATHER || o->kernel == SCATTER) && row < o->rows; row++) {
        float *to = o->to, *from = o->from;
        size_t place = ((int *)o->places)[row];
        if (o->kernel == GATHER)
            memcpy(to + row * o->size, from + place * o->size, o->size * sizeof(float));
        else
            memcpy(to + place * o->size, from + row * o->size, o->size * sizeof(float));
    }
}

static Result give(void *stream, struct operation o)
{
    if (!current)
        return NO_CONTEXT;
    if (((struct handle *)stream)->kind != STREAM)
        return INVALID;
    if (capturing == stream)
        capture->operations[capture->count++] = o;
    else
        perform(&o);
    return OK;
}

static Result init(unsigned flags) { return flags ? INVALID : OK; }
static Result device_count(int *count) { *count = getenv("FAKE_NO_GPU") ? 0 : 1; return OK; }
static Result device_get(int *device, int ordinal) { *device = 7; return ordinal ? INVALID : OK; }
static Result device_name(char *name, int length, int device)
{
    strcpy(name, "Fake GPU"); /* and what was behind it stays, as NVIDIA's leaves it */
    return device == 7 && length > 8 ? OK : INVALID;
}
static Result device_attribute(int *value, int attribute, int device)
{
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1; /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, MINOR */
    return device == 7 && *value > 0 ? OK : INVALID;
}
static Result context_retain(void **context, int device) { *context = (void *)0xc0; return device == 7 ? OK : INVALID; }
static Result context_set(void *context) { current = context == (void *)0xc0; return current ? OK : INVALID; }
static Result module_load(void **module, const void *image)
{
    *module = (void *)0x30d;
    return current && !memcmp(image, "\177ELF", 4) ? OK : INVALID;
}
static Result module_function(void **function, void *module, const char *name)
{
    int kernel = !strcmp(name, "gather") ? GATHER : !strcmp(name, "scatter") ? SCATTER : !strcmp(name, "mix") ? MIX : 0;
    *function = (void *)(intptr_t)kernel;
    return module == (void *)0x30d && *function ? OK : NOT_FOUND;
}
static Result mem_alloc(Device *address, size_t size)
{
    if (!current)
        return NO_CONTEXT;
    if (size > (1u << 30))
        return NO_MEMORY;
    *address = (Device)aligned_alloc(256, (size + 255) / 256 * 256);
    memset((void *)*address, 0xff, size);
    held++;
    return OK;
}
static Result mem_set(Device address, unsigned char value, size_t size)
{
    memset((void *)address, value, size);
    return OK;
}
static Result host_alloc(void **memory, size_t size, unsigned flags)
{
    *memory = malloc(size);
    held++;
    return current && !flags ? OK : INVALID;
}
static Result mem_info(size_t *free, size_t *total) { *free = 1000; *total = 2000; return OK; }
static Result stream_create(void **stream, unsigned flags)
{
    streams[stream_count].kind = STREAM;
    *stream = &streams[stream_count++];
    held++;
    return current && flags == 1 ? OK : INVALID; /* CU_STREAM_NON_BLOCKING */
}
static Result event_create(void **event, unsigned flags)
{
    events[event_count].kind = EVENT;
    *event = &events[event_count++];
    held++;
    return current && flags == 2 ? OK : INVALID; /* CU_EVENT_DISABLE_TIMING */
}
static Result event_record(struct handle *event, struct handle *stream)
{
    return event->kind == EVENT && stream->kind == STREAM ? OK : INVALID;
}
static Result stream_wait(struct handle *stream, struct handle *event, unsigned flags)
{
    return event->kind == EVENT && stream->kind == STREAM && !flags ? OK : INVALID;
}
static Result event_synchronize(struct handle *event) { return event->kind == EVENT ? OK : INVALID; }
static Result to_device(Device to, const void *from, size_t size, void *stream)
{
    return give(stream, (struct operation){0, (void *)to, (void *)from, NULL, size, 0});
}
static Result to_host(void *to, Device from, size_t size, void *stream)
{
    return give(stream, (struct operation){0, to, (void *)from, NULL, size, 0});
}
static Result within(Device to, Device from, size_t size, void *stream)
{
    return give(stream, (struct operation){0, (void *)to, (void *)from, NULL, size, 0});
}
static Result launch_kernel(void *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                            unsigned shared, void *stream, void **parameters, void **extra)
{
    int floats = *(int *)parameters[3];
    if (gx * bx < (unsigned)floats || gz != 1 || by != 1 || bz != 1 || shared || extra)
        return INVALID;
    return give(stream, (struct operation){(int)(intptr_t)kernel, *(void **)parameters[0], *(void **)parameters[1],
                                           *(void **)parameters[2], floats, gy});
}
static Result begin_capture(void *stream, int mode)
{
    if (capturing || mode != 1) /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
        return INVALID;
    capture = calloc(1, sizeof *capture);
    capture->kind = GRAPH;
    capturing = stream;
    return OK;
}
static Result end_capture(void *stream, void **graph)
{
    *graph = capture;
    Result result = capturing == stream ? OK : INVALID;
    capturing = NULL;
    return result;
}
static Result graph_instantiate(void **executable, struct graph *graph, unsigned long long flags)
{
    *executable = malloc(sizeof *graph);
    held++;
    memcpy(*executable, graph, sizeof *graph);
    return graph->kind == GRAPH && !flags ? OK : INVALID;
}
static Result graph_destroy(struct graph *graph) { graph->kind = 0; return OK; }
static Result graph_launch(struct graph *graph, void *stream)
{
    for (int i = 0; i < graph->count; i++)
        if (give(stream, graph->operations[i]))
            return INVALID;
    return graph->kind == GRAPH ? OK : INVALID;
}
static Result back(void) { return current && held-- > 0 ? OK : NO_CONTEXT; }
static Result mem_free(Device address) { free((void *)address); return back(); }
static Result host_free(void *memory) { free(memory); return back(); }
static Result stream_destroy(struct handle *stream) { return stream->kind == STREAM ? back() : INVALID; }
static Result event_destroy(struct handle *event) { return event->kind == EVENT ? back() : INVALID; }
static Result executable_destroy(struct graph *executable) { return executable->kind == GRAPH ? back() : INVALID; }
int fake_held(void) { return held; }
static Result driver_version(int *version) { *version = 13050; return OK; }

static const struct { const char *name; void *function; } CALLS[] = {
    {"cuInit", init}, {"cuDeviceGetCount", device_count}, {"cuDeviceGet", device_get},
    {"cuDeviceGetName", device_name}, {"cuDeviceGetAttribute", device_attribute},
    {"cuDevicePrimaryCtxRetain", context_retain}, {"cuCtxSetCurrent", context_set},
    {"cuModuleLoadData", module_load}, {"cuModuleGetFunction", module_function},
    {"cuMemAlloc", mem_alloc}, {"cuMemsetD8", mem_set}, {"cuMemHostAlloc", host_alloc}, {"cuMemGetInfo", mem_info},
    {"cuStreamCreate", stream_create}, {"cuEventCreate", event_create}, {"cuEventRecord", event_record},
    {"cuStreamWaitEvent", stream_wait}, {"cuEventSynchronize", event_synchronize},
    {"cuMemcpyHtoDAsync", to_device}, {"cuMemcpyDtoHAsync", to_host}, {"cuMemcpyDtoDAsync", within},
    {"cuLaunchKernel", launch_kernel}, {"cuStreamBeginCapture", begin_capture}, {"cuStreamEndCapture", end_capture},
    {"cuGraphInstantiateWithFlags", graph_instantiate}, {"cuGraphDestroy", graph_destroy}, {"cuGraphLaunch", graph_launch},
    {"cuMemFree", mem_free}, {"cuMemFreeHost", host_free}, {"cuStreamDestroy", stream_destroy},
    {"cuEventDestroy", event_destroy}, {"cuGraphExecDestroy", executable_destroy},
    {"cuDriverGetVersion", driver_version},
};

Result cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status)
{
    (void)version, (void)flags;
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (!strcmp(symbol, CALLS[i].name)) {
            *function = CALLS[i].function;
            if (status)
                *status = 0;
            return OK;
        }
    *function = NULL;
    if (status)
        *status = 1;
    return NOT_FOUND;
}

Result cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}
