// Stands in for TensorRT's header: the part of its interface that examples/cpp/tensorrt.cpp calls, with its signatures.
// A "plan" is one line, the network's name, and then the bytes of scores, boxes and classes. Running it checks that all
// addresses are known and the shapes are set, and writes both inputs to the file inputs.bin.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

namespace nvinfer1 {
struct Dims64 {
  int32_t nbDims;
  int64_t d[8];
};
using Dims = Dims64;
using AsciiChar = char;
enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5, kINT64 = 8 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, AsciiChar const* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct FakePlan {
  std::string name;
  std::vector<char> outputs;
  int64_t rows = 3, height = 0, width = 0;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(FakePlan const& plan) : plan(plan) {}
  virtual ~IExecutionContext() = default;
  bool setInputShape(char const* name, Dims const& dims) noexcept {
    shapes[name] = dims;
    return std::string(name) == "images" ? dims.nbDims == 4 && dims.d[1] == 3 && dims.d[3] == 96 : dims.nbDims == 2;
  }
  Dims getTensorShape(char const* name) const noexcept {
    if (shapes.count(name)) return shapes.at(name);
    const int64_t count = shapes.count("images") ? shapes.at("images").d[0] : -1;
    return std::string(name) == "boxes" ? Dims{3, {count, plan.rows, 4}} : Dims{2, {count, plan.rows}};
  }
  bool setTensorAddress(char const* name, void* data) noexcept {
    addresses[name] = static_cast<char*>(data);
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept {
    if (shapes.size() != 2 || addresses.size() != 5 || stream == nullptr) return false;
    std::ofstream file("inputs.bin", std::ios::binary);
    const Dims images = shapes["images"];
    file.write(addresses["images"], images.d[0] * 3 * images.d[2] * images.d[3]);
    file.write(addresses["image_sizes"], images.d[0] * 2 * 8);
    const int64_t bytes = plan.rows * 4;
    std::memcpy(addresses["scores"], plan.outputs.data(), bytes);
    std::memcpy(addresses["boxes"], plan.outputs.data() + bytes, 4 * bytes);
    std::memcpy(addresses["classes"], plan.outputs.data() + 5 * bytes, 2 * bytes);
    return true;
  }

 private:
  FakePlan const& plan;
  std::map<std::string, Dims> shapes;
  std::map<std::string, char*> addresses;
};

class ICudaEngine {
 public:
  FakePlan plan;
  virtual ~ICudaEngine() = default;
  char const* getName() const noexcept { return plan.name.c_str(); }
  int32_t getNbIOTensors() const noexcept { return 5; }
  char const* getIOTensorName(int32_t index) const noexcept {
    static char const* const names[] = {"images", "image_sizes", "scores", "boxes", "classes"};
    return names[index];
  }
  DataType getTensorDataType(char const* name) const noexcept {
    const std::string of = name;
    if (of == "images") return DataType::kUINT8;
    return of == "image_sizes" || of == "classes" ? DataType::kINT64 : DataType::kFLOAT;
  }
  TensorIOMode getTensorIOMode(char const* name) const noexcept {
    return std::string(name).rfind("image", 0) == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(plan); }
};

class IRuntime {
 public:
  ILogger& logger;
  explicit IRuntime(ILogger& logger) : logger(logger) {}
  virtual ~IRuntime() = default;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    const char* text = static_cast<const char*>(blob);
    const void* end = size ? std::memchr(text, '\n', size) : nullptr;
    if (end == nullptr) {
      logger.log(ILogger::Severity::kERROR, "Serialization assertion failed.");
      return nullptr;
    }
    auto* engine = new ICudaEngine;
    engine->plan.name.assign(text, static_cast<const char*>(end));
    engine->plan.outputs.assign(static_cast<const char*>(end) + 1, text + size);
    return engine;
  }
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }
}  // namespace nvinfer1
