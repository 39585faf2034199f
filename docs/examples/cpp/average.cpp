// Averages a vector over all ranks, dense and with ScaleCom. Run it alone or under mpirun.

#include <scalecom/scalecom.hpp>

#include <algorithm>
#include <cstdio>
#include <vector>

int main() {
  try {
    const auto session = scalecom::Session::connect(scalecom::Config::from_environment());
    const scalecom::Topology& topology = session->topology();

    std::vector<float> gradient(1000, static_cast<float>(topology.rank));
    std::vector<float> average(gradient.size());
    const scalecom::TensorView input{gradient.data(), scalecom::DataType::float32, {1000}, {}};
    const scalecom::TensorView output{average.data(), scalecom::DataType::float32, {1000}, {}};

    const scalecom::Status dense = session->all_reduce("gradient", input, output).wait();
    if (!dense.is_ok()) throw scalecom::Error(dense);
    std::printf("rank %d of %d: the average is %.2f\n", topology.rank, topology.size, average[0]);

    scalecom::AllReduceOptions options;
    options.compression.mode = scalecom::CompressionMode::cyclic;
    options.compression.rate = 100;
    const scalecom::Status sparse =
        session->all_reduce("compressed", input, output, options).wait();
    if (!sparse.is_ok()) throw scalecom::Error(sparse);
    const auto sent =
        std::count_if(average.begin(), average.end(), [](float value) { return value != 0.0f; });
    std::printf("rank %d of %d: ScaleCom delivered %d of 1000 elements\n", topology.rank,
                topology.size, static_cast<int>(sent));
    session->barrier().wait();
    return 0;
  } catch (const scalecom::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
