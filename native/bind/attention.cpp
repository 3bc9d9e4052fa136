// Keys and values in pages, and attention over them.

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <vector>

#include "bind/bind.hpp"
#include "core/arena.hpp"
#include "core/pages.hpp"
#include "ops/attention.hpp"
#include "ops/sparse.hpp"

namespace minicpm {

namespace {

// Segments with the memory they are in.
class SegmentList {
 public:
  SegmentList(const std::vector<int64_t>& starts, const std::vector<int32_t>& counts,
              const std::vector<Address>& pages) {
    if (starts.size() != counts.size() || starts.size() != pages.size())
      throw std::invalid_argument("a segment needs a start, a count and pages");
    int32_t row = 0;
    for (size_t i = 0; i < starts.size(); i++) {
      segments_.push_back({starts[i], counts[i], row, at<int32_t>(pages[i])});
      row += counts[i];
    }
  }

  Segments view() const { return {segments_.data(), static_cast<int32_t>(segments_.size())}; }

 private:
  std::vector<Segment> segments_;
};

FloatRows rows(Address data, int64_t stride) { return {at<float>(data), stride}; }

// Builds what a call needs in scratch memory, after measuring it.
template <class Make>
auto in_scratch(Scratch& scratch, Make&& make) {
  Frame measure;
  make(measure);
  const auto held = scratch.hold();
  Frame frame(scratch.take(measure.used()));
  return make(frame);
}

}  // namespace

void bind_attention(nb::module_& module) {
  nb::class_<KvPages>(module, "KvPages", "Keys and values of one layer in pages, which their maker keeps alive.")
      .def(
          "__init__",
          [](KvPages* kv, int format, int heads, int width, Address k, Address v, Address k_scales, Address v_scales,
             Address unrotated, Address unrotated_scales) {
            new (kv) KvPages{static_cast<KvFormat>(format), heads, width, {at<uint8_t>(k), at<float>(k_scales)},
                             {at<uint8_t>(v), at<float>(v_scales)},
                             {at<uint8_t>(unrotated), at<float>(unrotated_scales)}};
          },
          nb::arg("format"), nb::arg("heads"), nb::arg("width"), nb::arg("k"), nb::arg("v"), nb::arg("k_scales") = 0,
          nb::arg("v_scales") = 0, nb::arg("unrotated") = 0, nb::arg("unrotated_scales") = 0);
  nb::class_<SegmentList>(module, "Segments", "New tokens of several sequences, with the pages of each.")
      .def(nb::init<const std::vector<int64_t>&, const std::vector<int32_t>&, const std::vector<Address>&>(),
           nb::arg("starts"), nb::arg("counts"), nb::arg("pages"));
  nb::class_<Compressed>(module, "Compressed", "Compressed keys of one layer and the rule that uses them.")
      .def(
          "__init__",
          [](Compressed* c, Address keys, int kernel_size, int kernel_stride, int init_blocks, int local_blocks,
             int chosen_blocks, int64_t dense) {
            new (c) Compressed{at<uint16_t>(keys),
                               {kernel_size, kernel_stride, init_blocks, local_blocks, chosen_blocks, dense}};
          },
          nb::arg("keys"), nb::arg("kernel_size"), nb::arg("kernel_stride"), nb::arg("init_blocks"),
          nb::arg("local_blocks"), nb::arg("chosen_blocks"), nb::arg("dense"));
  module.def(
      "write",
      [](Pool& pool, const KvPages& kv, const SegmentList& segments, Address k, Address v, Address unrotated,
         int64_t stride) {
        nb::gil_scoped_release released;
        pool.run([&](Team& team) {
          write(team, kv, segments.view(), rows(k, stride), rows(v, stride), rows(unrotated, stride));
        });
      },
      nb::arg("pool"), nb::arg("kv"), nb::arg("segments"), nb::arg("k"), nb::arg("v"), nb::arg("unrotated"),
      nb::arg("stride"), "Store float32 rows of the segments' keys and values.");
  module.def(
      "compress",
      [](Pool& pool, const KvPages& kv, const Compressed& compressed, const SegmentList& segments) {
        nb::gil_scoped_release released;
        pool.run([&](Team& team) { compress(team, kv, compressed, segments.view()); });
      },
      nb::arg("pool"), nb::arg("kv"), nb::arg("compressed"), nb::arg("segments"),
      "Make the compressed keys whose windows end in the segments.");
  module.def(
      "attend",
      [](Pool& pool, Scratch& scratch, const KvPages& kv, const SegmentList& segments, int heads, Address q,
         int64_t q_stride, Address out, int64_t out_stride) {
        nb::gil_scoped_release released;
        const auto attending = in_scratch(scratch, [&](Frame& frame) {
          return Attending(frame, kv, segments.view(), heads, pool.threads());
        });
        pool.run([&](Team& team) { attending.attend(team, rows(q, q_stride), rows(out, out_stride)); });
      },
      nb::arg("pool"), nb::arg("scratch"), nb::arg("kv"), nb::arg("segments"), nb::arg("heads"), nb::arg("q"),
      nb::arg("q_stride"), nb::arg("out"), nb::arg("out_stride"), "Causal attention of float32 rows.");
  module.def(
      "attend_sparse",
      [](Pool& pool, Scratch& scratch, const KvPages& kv, const Compressed& compressed, const SegmentList& segments,
         int heads, Address q, Address choosing, int64_t q_stride, Address out, int64_t out_stride, Address chosen) {
        nb::gil_scoped_release released;
        const auto attending = in_scratch(scratch, [&](Frame& frame) {
          return SparseAttending(frame, kv, compressed, segments.view(), heads, pool.threads());
        });
        pool.run([&](Team& team) {
          attending.attend(team, rows(q, q_stride), rows(choosing, q_stride), rows(out, out_stride),
                           at<int32_t>(chosen));
        });
      },
      nb::arg("pool"), nb::arg("scratch"), nb::arg("kv"), nb::arg("compressed"), nb::arg("segments"), nb::arg("heads"),
      nb::arg("q"), nb::arg("choosing"), nb::arg("q_stride"), nb::arg("out"), nb::arg("out_stride"),
      nb::arg("chosen") = 0, "Attention of float32 rows over the blocks they choose.");
}

}  // namespace minicpm
