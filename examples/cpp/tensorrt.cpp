// Detects the objects of a picture with a TensorRT plan: detect_tensorrt model.plan picture.ppm
// Prints a line for each: category id, score, x1 y1 x2 y2 in pixels of the picture. No plugin library is needed.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <iterator>
#include <map>
#include <memory>

#include "picture.h"
#include "record.h"

struct Logger : nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
  }
};

static void require(bool fine, const char* what) {
  if (!fine) throw std::runtime_error(what);
}

static void check(cudaError_t status) { require(status == cudaSuccess, cudaGetErrorString(status)); }

static size_t bytes_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kUINT8: return 1;
    case nvinfer1::DataType::kINT64: return 8;
    default: return 4;  // float32 and int32
  }
}

static void detect(const std::string& path, const std::string& picture_path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> plan((std::istreambuf_iterator<char>(file)), {});
  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
  require(engine != nullptr, "TensorRT cannot load the plan; was it built by this version, for this GPU?");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  const std::string record = engine->getName();
  const auto canvas = numbers(record, "canvas"), ids = numbers(record, "ids");
  const int fewest = numbers(record, "batch")[0];

  const Placed placed =
      place(read_ppm(picture_path), numbers(record, "resize")[0], numbers(record, "max_size")[0], canvas[0], canvas[1]);
  require(context->setInputShape("images", nvinfer1::Dims4{fewest, 3, canvas[0], canvas[1]}), "not the plan's canvas");
  require(context->setInputShape("image_sizes", nvinfer1::Dims2{fewest, 2}), "not the plan's batch");

  // Every input and output lies in memory that the CPU and the GPU share; all are small.
  std::map<std::string, std::shared_ptr<char>> memory;
  for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
    const char* name = engine->getIOTensorName(i);
    const nvinfer1::Dims shape = context->getTensorShape(name);
    size_t bytes = bytes_of(engine->getTensorDataType(name));
    for (int32_t side = 0; side < shape.nbDims; ++side) bytes *= size_t(shape.d[side]);
    void* address = nullptr;
    check(cudaHostAlloc(&address, bytes, cudaHostAllocDefault));
    memory[name] = {static_cast<char*>(address), cudaFreeHost};
    std::memset(address, 0, bytes);
    require(context->setTensorAddress(name, address), "the plan refuses pinned memory");
  }
  std::memcpy(memory.at("images").get(), placed.canvas.data(), placed.canvas.size());
  const int64_t size[] = {placed.height, placed.width};
  std::memcpy(memory.at("image_sizes").get(), size, sizeof size);

  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  require(context->enqueueV3(stream), "the plan did not run");
  check(cudaStreamSynchronize(stream));
  check(cudaStreamDestroy(stream));

  const auto* score = reinterpret_cast<const float*>(memory.at("scores").get());
  const auto* box = reinterpret_cast<const float*>(memory.at("boxes").get());
  const auto* label = reinterpret_cast<const int64_t*>(memory.at("classes").get());
  const int rows = numbers(record, "detections")[0];
  for (int i = 0; i < rows && score[i] > 0; ++i)
    std::printf("%d %.6f %.3f %.3f %.3f %.3f\n", ids[label[i]], score[i], box[4 * i] / placed.scale_x,
                box[4 * i + 1] / placed.scale_y, box[4 * i + 2] / placed.scale_x, box[4 * i + 3] / placed.scale_y);
}

int main(int count, char** words) {
  if (count != 3) {
    std::fprintf(stderr, "usage: detect_tensorrt model.plan picture.ppm\n");
    return 2;
  }
  try {
    detect(words[1], words[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "detect_tensorrt: %s\n", error.what());
    return 1;
  }
}
