// Detects the objects of a picture with a TensorRT plan: detect_tensorrt model.plan picture.ppm
// Prints a line for each: category id, score, x1 y1 x2 y2 in pixels of the picture. No plugin library is needed.
#include <NvInferRuntime.h>
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
    default: return 4;  // float32
  }
}

// Memory of the GPU, as large as the tensor `name`, which the plan finds there.
static std::shared_ptr<char> bind(const nvinfer1::ICudaEngine& engine, nvinfer1::IExecutionContext& context,
                                  const char* name, size_t& bytes) {
  const nvinfer1::Dims shape = context.getTensorShape(name);
  bytes = bytes_of(engine.getTensorDataType(name));
  for (int32_t side = 0; side < shape.nbDims; ++side) bytes *= size_t(shape.d[side]);
  void* address = nullptr;
  check(cudaMalloc(&address, bytes));
  const std::shared_ptr<char> memory(static_cast<char*>(address), cudaFree);
  require(context.setTensorAddress(name, address), "the plan refuses the memory of a tensor");
  return memory;
}

// The values of the first image of the batch, of an output that has come back.
template <typename T>
static std::vector<T> first_image(const std::map<std::string, std::vector<char>>& outputs, const char* name, size_t count) {
  std::vector<T> values(count);
  std::memcpy(values.data(), outputs.at(name).data(), count * sizeof(T));
  return values;
}

static void detect(const std::string& path, const std::string& picture_path) {
  std::ifstream file(path, std::ios::binary);
  require(bool(file), "cannot read the plan");
  const std::vector<char> plan((std::istreambuf_iterator<char>(file)), {});
  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
  require(engine != nullptr, "TensorRT cannot load the plan; was it built by this version, for this GPU?");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  require(context != nullptr, "the GPU has no room for the plan");
  const std::string record = engine->getName();
  const auto canvas = numbers(record, "canvas"), ids = numbers(record, "ids");
  require(!ids.empty(), "the plan has too many classes to hold their ids, which are in its .json alone");
  const int fewest = numbers(record, "batch")[0];
  const size_t rows = size_t(numbers(record, "detections")[0]);

  const Placed placed =
      place(read_ppm(picture_path), numbers(record, "resize")[0], numbers(record, "max_size")[0], canvas[0], canvas[1]);
  const int64_t size[] = {placed.height, placed.width};
  require(context->setInputShape("images", nvinfer1::Dims{4, {fewest, 3, canvas[0], canvas[1]}}), "not its canvas");
  require(context->setInputShape("image_sizes", nvinfer1::Dims{2, {fewest, 2}}), "not the plan's batch");

  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  std::map<std::string, std::shared_ptr<char>> memory;
  std::map<std::string, std::vector<char>> outputs;
  for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
    const char* name = engine->getIOTensorName(i);
    size_t bytes;
    memory[name] = bind(*engine, *context, name, bytes);
    if (engine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT)
      check(cudaMemsetAsync(memory[name].get(), 0, bytes, stream));  // slots without a picture have size 0
    else
      outputs[name].resize(bytes);
  }
  const auto upload = [&](const char* name, const void* source, size_t bytes) {
    check(cudaMemcpyAsync(memory.at(name).get(), source, bytes, cudaMemcpyHostToDevice, stream));
  };
  upload("images", placed.canvas.data(), placed.canvas.size());
  upload("image_sizes", size, sizeof size);
  require(context->enqueueV3(stream), "the plan did not run");
  for (auto& [name, target] : outputs)
    check(cudaMemcpyAsync(target.data(), memory.at(name).get(), target.size(), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  check(cudaStreamDestroy(stream));

  const auto score = first_image<float>(outputs, "scores", rows), box = first_image<float>(outputs, "boxes", 4 * rows);
  const auto label = first_image<int64_t>(outputs, "classes", rows);
  for (size_t i = 0; i < rows && score[i] > 0; ++i)
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
