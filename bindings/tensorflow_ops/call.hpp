#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/tensorflow_ops/api.hpp"
#include "bindings/tensorflow_ops/done.hpp"
#include "scalecom/c_api.h"

namespace scalecom::tensorflow {

/// What goes wrong in an operation, as TensorFlow is to be told; thrown and caught in this folder.
struct Failure {
  Code code;
  std::string message;
};

/// Throws the Failure that a code of the C interface stands for, with its message.
void check(int scalecom_code);

/// A TF_Status, ok at first.
class StatusHolder {
 public:
  StatusHolder() : status_(api().TF_NewStatus()) {}
  ~StatusHolder() { api().TF_DeleteStatus(status_); }
  StatusHolder(const StatusHolder&) = delete;
  StatusHolder& operator=(const StatusHolder&) = delete;

  TF_Status* get() const { return status_; }
  void set(const Failure& failure) {
    api().TF_SetStatus(status_, failure.code, failure.message.c_str());
  }
  /// Throws what TensorFlow has set.
  void check() const;

 private:
  TF_Status* status_;
};

/// A reference to a tensor, which keeps its memory, and its view for the C interface.
class Tensor {
 public:
  /// Takes over the reference.
  explicit Tensor(TF_Tensor* tensor);

  /// Borrowed. Throws Failure for a type that scalecom does not know.
  scalecom_tensor view() const;
  const std::vector<std::int64_t>& shape() const { return shape_; }
  int type() const { return api().TF_TensorType(tensor_.get()); }
  std::size_t bytes() const { return api().TF_TensorByteSize(tensor_.get()); }
  void* data() const { return api().TF_TensorData(tensor_.get()); }

 private:
  struct Delete {
    void operator()(TF_Tensor* tensor) const { api().TF_DeleteTensor(tensor); }
  };
  std::unique_ptr<TF_Tensor, Delete> tensor_;
  std::vector<std::int64_t> shape_;
};

class Call;

/// The attributes of one operation of a graph. Immutable.
struct Node {
  std::string prefix;
  std::vector<std::string> suffixes;           ///< one for each tensor
  std::vector<scalecom_reduction> reductions;  ///< different ones
  std::vector<std::size_t> choices;            ///< place in them: one for each tensor, or for all
  int root = 0;
  int process_set = 0;
  int fact = 0;

  /// The name that the ranks know of the tensor at `place`. call: the number of an eager call
  /// without a name, or less than 0.
  std::string name(std::int64_t call, std::size_t place) const;
};

/// While it lives, this thread's calls of the C interface are of the node's process set. Throws
/// Failure where this rank is not in it.
class UsedSet {
 public:
  explicit UsedSet(const Node& node);
  ~UsedSet();
  UsedSet(const UsedSet&) = delete;
  UsedSet& operator=(const UsedSet&) = delete;

 private:
  const int id_;
};

/// What an operation does. submit() starts it, in a thread of TensorFlow, and does not wait;
/// finish() makes the outputs that are not there yet, when all of its tickets have completed well.
struct Work {
  void (*submit)(const Node& node, Call& call);
  void (*finish)(Call& call);
};

/// One computation of a kernel, from the submit to the callback: keeps the tensors and the tickets.
/// One thread at a time: that which submits, then that which completes the last ticket.
class Call {
 public:
  /// Begins the work, and waits for it only as wait_in_submit() says.
  static void start(const Node& node, const Work& work, TF_OpKernelContext* context, Done done);

  int inputs_count() const { return api().TF_NumInputs(context_); }
  Tensor& add_input(int place);
  Tensor& add_output(int place, int type, const std::vector<std::int64_t>& shape,
                     std::size_t bytes);
  /// The input `from`, and an output of its type and shape: in the input's own memory where nobody
  /// else is to see that, so that no second memory of its size goes through the caches.
  struct Pair {
    const Tensor& input;
    const Tensor& output;
  };
  Pair add_pair(int from, int place);
  /// Takes over a ticket, of which there may be several, and waits for it too.
  void add_ticket(scalecom_ticket* ticket);
  /// It does not end before a release() more.
  void hold() { pending_.fetch_add(1); }
  void release();
  /// The thread that submits waits for each ticket so long, and so carries the work on itself,
  /// which saves two changes of threads. Negative: until the end, as where it has nothing else to
  /// do; 0, as at first: not at all. Before the first ticket.
  void wait_in_submit(double patience_s) { patience_s_ = patience_s; }
  const std::vector<scalecom_ticket*>& tickets() const { return tickets_; }
  Tensor& tensor(std::size_t place) { return *tensors_[place]; }

 private:
  Call(const Work& work, TF_OpKernelContext* context, Done done)
      : work_(work), context_(context), done_(std::move(done)) {}
  ~Call();
  std::unique_ptr<Tensor> get_input(int place) const;
  void submit(const Node& node);
  void end();
  void finish();

  const Work& work_;
  TF_OpKernelContext* const context_;
  Done done_;
  std::vector<std::unique_ptr<Tensor>> tensors_;
  std::vector<scalecom_ticket*> tickets_;
  std::optional<Failure> failure_;
  double patience_s_ = 0;
  std::atomic<std::size_t> pending_{1};  // Tickets, and the submit itself.
};

}  // namespace scalecom::tensorflow
