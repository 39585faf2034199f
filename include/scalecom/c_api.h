#pragma once

/* The C interface, for language bindings. One default session per process.
 *
 * Every function that can fail returns a scalecom::StatusCode as int (0 is ok); the message of the
 * last failure on the calling thread is scalecom_last_error(). All functions may be called from
 * any thread. Strings that a function returns by char** are released with scalecom_free().
 * The values of dtype, op, device kind and compression mode are those of the enums in
 * scalecom/tensor.hpp, device.hpp and compression.hpp. */

#include <stddef.h>
#include <stdint.h>

#include "scalecom/export.hpp"

#ifdef __cplusplus
extern "C" {
#endif

/* A contiguous row-major tensor that the caller keeps alive until its ticket completes; on a CUDA
 * device, in the order of a stream that scalecom_ticket_make_wait() was given. */
typedef struct {
  void* data;
  const int64_t* shape;
  int32_t dimensions;
  int32_t dtype;
  int32_t device_kind;
  int32_t device_index;
  void* stream; /* of a CUDA device, as scalecom::TensorView has it; NULL in the host's memory */
} scalecom_tensor;

typedef struct {
  int32_t mode;
  int64_t rate;
  double beta;
  int64_t warmup_steps;
  int32_t values; /* dtype on the wire: float32, float16 or bfloat16; 0 is none of them */
  double guard;   /* largest d/k, above which the density is raised; 0: none */
  int32_t ramp_steps;
} scalecom_compression;

/* How an all-reduce does; compression.mode 0 is none. */
typedef struct {
  int32_t op;
  double prescale;
  double postscale;
  scalecom_compression compression;
  int32_t priority; /* see scalecom_all_reduce() */
} scalecom_reduction;

typedef struct scalecom_ticket scalecom_ticket;

/* "0.1.0" */
SCALECOM_API const char* scalecom_version(void);
/* Message of the last failed call on this thread; "" if none. Valid until the next call. */
SCALECOM_API const char* scalecom_last_error(void);
/* Its code; 0 if none. */
SCALECOM_API int scalecom_last_code(void);
/* Releases a string that a function returned by char**. NULL is allowed. */
SCALECOM_API void scalecom_free(void* pointer);

/* NCCL's library for what is initialised from now on, where the process has none and
 * SCALECOM_NCCL_LIBRARY names none; NULL: the system's, which else comes behind it. Copied. */
SCALECOM_API int scalecom_offer_nccl(const char* path);
/* Joins the job (see scalecom::Session::connect) with settings from the environment. Idempotent
 * while initialised; after shutdown it joins again. */
SCALECOM_API int scalecom_init(void);
/* Idempotent; also before init. An init that waits on another thread for ranks that have not come
 * fails by it, as shut_down. */
SCALECOM_API int scalecom_shutdown(void);
/* 1 after init and before shutdown. */
SCALECOM_API int scalecom_is_initialized(void);
/* Status of the session: 0 while it works; else the code of its first failure. */
SCALECOM_API int scalecom_session_status(void);

typedef struct {
  int32_t rank, size, local_rank, local_size, cross_rank, cross_size, is_homogeneous;
} scalecom_topology;
/* Who this rank is; fails before init. */
SCALECOM_API int scalecom_get_topology(scalecom_topology* topology);

/* Process sets: some of the job's ranks, with a session of their own (see
 * scalecom::Session::make_process_set()). Every rank of the job adds and removes the same ones in
 * the same order, whether it is in them or not; either waits for all of them. `*id` is 1 or more,
 * the same on every rank; no other set of this session gets it. Which ranks: different ones of
 * the job, which no other set has; their order does not count. */
SCALECOM_API int scalecom_process_set_add(const int32_t* ranks, int32_t count, int32_t* id);
/* Of a set that was added. What of it is in flight ends with StatusCode::shut_down. */
SCALECOM_API int scalecom_process_set_remove(int32_t id);
/* By the set's ranks alone, which meet by `exchange`: it hands `count` bytes to each of the others
 * and gives everyone's, its own among them and also those of 0 bytes, to
 * scalecom_exchanged_put(all, place in ranks, ...); it returns 0, or another number when they have
 * not all come within limit_s seconds. It is called in this thread, several times. `*id` is a
 * number of this rank's own. */
typedef struct scalecom_exchanged scalecom_exchanged;
typedef int (*scalecom_exchange)(void* context, const void* mine, int64_t count, double limit_s,
                                 scalecom_exchanged* all);
/* The bytes are copied. */
SCALECOM_API int scalecom_exchanged_put(scalecom_exchanged* all, int32_t place, const void* bytes,
                                        int64_t count);
/* See scalecom_exchange. `ranks` are ranks of the job, in the set's order, this one among them. */
SCALECOM_API int scalecom_process_set_connect(const int32_t* ranks, int32_t count,
                                              scalecom_exchange exchange, void* context,
                                              int32_t* id);
/* Ends a set that was connected, for all of its ranks. */
SCALECOM_API int scalecom_process_set_leave(int32_t id);
/* All of this thread's calls from now on are of this process set, which this rank is in: its ranks,
 * world size, root ranks, names, residuals and counts; but for timelines and scalecom_info(), which
 * are of all ranks. 0: of all ranks, as at first. A set's end leaves the choice as it is: calls
 * are then refused until the thread uses another one. So does shutdown; but the next session
 * counts its sets from 1 again, so that each thread then says anew which one it uses. */
SCALECOM_API int scalecom_process_set_use(int32_t id);

/* Submits. `*ticket` is set only on success; release it with scalecom_ticket_release().
 * compression may be NULL (none). Shapes of input and output are equal. A higher priority is needed
 * sooner and goes first among what every rank has submitted; 0 where nothing is known. */
SCALECOM_API int scalecom_all_reduce(const char* name, const scalecom_tensor* input,
                                     const scalecom_tensor* output, int32_t op, double prescale,
                                     double postscale, const scalecom_compression* compression,
                                     int32_t priority, scalecom_ticket** ticket);
/* The same for `count` tensors, names[i] from inputs[i] to outputs[i], with one ticket, which
 * completes when all of them have; the first error is its own. All are submitted, or none. */
SCALECOM_API int scalecom_all_reduce_group(const char* const* names, const scalecom_tensor* inputs,
                                           const scalecom_tensor* outputs, int64_t count,
                                           const scalecom_reduction* reduction,
                                           scalecom_ticket** ticket);
/* Concatenates along the first dimension; the result is scalecom_ticket_output(). */
SCALECOM_API int scalecom_all_gather(const char* name, const scalecom_tensor* input,
                                     scalecom_ticket** ticket);
/* The same for `count` tensors, tickets[i] for inputs[i] under names[i]. All are submitted, or
 * none: then no ticket is set. */
SCALECOM_API int scalecom_all_gather_group(const char* const* names, const scalecom_tensor* inputs,
                                           int64_t count, scalecom_ticket** tickets);
/* Reduces and cuts the first dimension between the ranks; the result, this rank's part, is
 * scalecom_ticket_output(). */
SCALECOM_API int scalecom_reduce_scatter(const char* name, const scalecom_tensor* input, int32_t op,
                                         double prescale, double postscale,
                                         scalecom_ticket** ticket);
/* The same for `count` tensors, as scalecom_all_gather_group(). */
SCALECOM_API int scalecom_reduce_scatter_group(const char* const* names,
                                               const scalecom_tensor* inputs, int64_t count,
                                               int32_t op, double prescale, double postscale,
                                               scalecom_ticket** tickets);
/* Gives splits[p] rows of the first dimension to rank p; `count` splits, or none (NULL and 0) for
 * equal parts. The result is scalecom_ticket_output(), and where its rows came from
 * scalecom_ticket_received_splits(). `splits` is not used after the call. */
SCALECOM_API int scalecom_all_to_all(const char* name, const scalecom_tensor* input,
                                     const int64_t* splits, int32_t count,
                                     scalecom_ticket** ticket);
/* In place, from rank `root`. */
SCALECOM_API int scalecom_broadcast(const char* name, const scalecom_tensor* tensor, int32_t root,
                                    scalecom_ticket** ticket);
/* Completes when every rank has submitted it. */
SCALECOM_API int scalecom_barrier(scalecom_ticket** ticket);
/* scalecom::Session::join(): this rank is out of data. Completes when every rank has joined;
 * scalecom_ticket_output() is then one int64, the last rank to join. device: of its zeros, a CUDA
 * device's number, where this rank has used none yet; -1: none. */
SCALECOM_API int scalecom_join(int32_t device, scalecom_ticket** ticket);

/* All-reduces and broadcasts of Python's tensor objects, which are read by the DLPack exchange
 * interface of their type (what the capsule type(tensor).__dlpack_c_exchange_api__ holds): a
 * fraction of a microsecond each, where reading a tensor's attributes one by one takes several.
 * Call them with the interpreter's lock held; they give it up for nothing, since they wait for
 * nothing.
 *
 * Each returns the ticket; or NULL, when scalecom_last_code() tells why: SCALECOM_NOT_PLAIN for a
 * tensor that is not in the host's memory or on a CUDA device, contiguous and of a known type, and
 * when the interface has set a Python exception. Nothing is then submitted, and
 * scalecom_all_reduce() or the framework can tell more. A CUDA tensor's stream is the framework's
 * current one. */
#define SCALECOM_NOT_PLAIN (-1)
/* 1 when `exchange` has what the calls below need. */
SCALECOM_API int scalecom_dlpack_is_usable(const void* exchange);
/* output NULL: in place. */
SCALECOM_API scalecom_ticket* scalecom_dlpack_all_reduce(const void* exchange, const char* name,
                                                         void* input, void* output,
                                                         const scalecom_reduction* reduction);
/* As scalecom_all_reduce_group(), each member by its own reductions[i]. `names` holds `count`
 * names, each ended by a zero byte; `outputs` NULL: in place. */
SCALECOM_API scalecom_ticket* scalecom_dlpack_all_reduce_group(
    const void* exchange, const char* names, void* const* inputs, void* const* outputs,
    int64_t count, const scalecom_reduction* const* reductions);
/* scalecom_broadcast() of each of `count` tensors, with one ticket, which completes when all have.
 * All are submitted, or none. `names` as above. */
SCALECOM_API scalecom_ticket* scalecom_dlpack_broadcast_group(const void* exchange,
                                                              const char* names,
                                                              void* const* tensors, int64_t count,
                                                              int32_t root);

/* 1 when completed (well or badly), and where a wait fails at once (a forked process); else 0. */
SCALECOM_API int scalecom_ticket_is_ready(const scalecom_ticket* ticket);
/* Sleeps until completion and returns its code. timeout_s < 0: as long as it takes (bounded by
 * the session). On time-out returns timed_out (5) and the operation goes on. */
SCALECOM_API int scalecom_ticket_wait(const scalecom_ticket* ticket, double timeout_s);
/* Calls callback(context) once, when the operation has completed: in the thread that completes it,
 * or here where it has. It may look at the ticket, release it and submit; it must not wait, for
 * this thread is the one that others wait for. */
SCALECOM_API int scalecom_ticket_on_complete(const scalecom_ticket* ticket,
                                             void (*callback)(void* context), void* context);
/* What is enqueued on `stream` (a cudaStream_t) from now on comes behind the results of the tensors
 * on a CUDA device; nothing for others. Waits for nothing; requires completion. */
SCALECOM_API int scalecom_ticket_make_wait(const scalecom_ticket* ticket, void* stream);
/* Result of an all_gather, reduce_scatter or all_to_all, borrowed from the ticket; requires
 * completion. dimensions and shape stay valid while the ticket lives. */
SCALECOM_API int scalecom_ticket_output(const scalecom_ticket* ticket, scalecom_tensor* output);
/* Copies that result to `destination`, memory of the same device and as long; on a CUDA device in
 * the order of `stream`, behind the result. Requires completion. */
SCALECOM_API int scalecom_ticket_copy_output(const scalecom_ticket* ticket, void* destination,
                                             void* stream);
/* Copies the rows that each rank gave to an all_to_all's result (count: the world size); requires
 * completion. */
SCALECOM_API int scalecom_ticket_received_splits(const scalecom_ticket* ticket, int64_t* splits,
                                                 int32_t count);
/* Gives up the ticket; the operation goes on. NULL is allowed. */
SCALECOM_API void scalecom_ticket_release(scalecom_ticket* ticket);

/* JSON array of {"name", "shape", "step", "beta"} of this rank's residuals. */
SCALECOM_API int scalecom_residuals(char** json);
/* Copies the float32 residual of `name` to `values` (count elements, which must match). */
SCALECOM_API int scalecom_residual_get(const char* name, float* values, int64_t count);
/* Replaces or creates the residual of `name`, of a filter with discount `beta`, in (0, 1]: `name`
 * may go on with another one. 0: not known. The tensor's next step becomes `step`. values: finite;
 * NULL for zeros, which drop what was owed (scalecom_stats() counts residual_resets). */
SCALECOM_API int scalecom_residual_restore(const char* name, const int64_t* shape,
                                           int32_t dimensions, const float* values, int64_t step,
                                           double beta);

/* JSON array of objects with the members of scalecom::CompressionHealth, of each compressed tensor
 * that has been sampled; what is infinite is null. */
SCALECOM_API int scalecom_compression_stats(char** json);

/* JSON object with the members of scalecom::CompressionExplanation, modes as text: what happens to
 * a tensor of `count` elements on such a device, and why. */
SCALECOM_API int scalecom_explain_compression(int64_t count, int32_t dtype, int32_t device_kind,
                                              const scalecom_compression* compression, char** json);

/* scalecom::Session::start_timeline(): fails before init, while a timeline runs, and where this
 * rank cannot write `path`. */
SCALECOM_API int scalecom_start_timeline(const char* path, int mark_cycles);
/* Returns when the file is complete; 0 also where no timeline runs, and before init. */
SCALECOM_API int scalecom_stop_timeline(void);

/* JSON object with the members of scalecom::SessionStats. */
SCALECOM_API int scalecom_stats(char** json);
/* JSON object: build, libraries, topology, settings: what scalecom-info prints. Works before init
 * (then without "session"). */
SCALECOM_API int scalecom_info(char** json);

#ifdef __cplusplus
}
#endif
