// Detects the objects of a picture with a package of AOTInductor: detect model.pt2 picture.ppm
// Prints a line for each: category id, score, x1 y1 x2 y2 in pixels of the picture.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <exception>

#include "picture.h"
#include "record.h"

static void detect(const std::string& package, const std::string& path) {
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader model(package);
  const auto metadata = model.get_metadata();
  const std::string record = metadata.at("retinanet");
  const at::Device device(metadata.at("AOTI_DEVICE_KEY"));
  const auto canvas = numbers(record, "canvas"), ids = numbers(record, "ids");
  const int fewest = numbers(record, "batch")[0];

  Placed placed = place(read_ppm(path), numbers(record, "resize")[0], numbers(record, "max_size")[0], canvas[0], canvas[1]);
  // Slots without a picture have size 0. Both inputs must be contiguous: the package does not look.
  const at::Tensor images = at::zeros({fewest, 3, canvas[0], canvas[1]}, at::kByte);
  images[0].copy_(at::from_blob(placed.canvas.data(), {3, canvas[0], canvas[1]}, at::kByte));
  const at::Tensor image_sizes = at::zeros({fewest, 2}, at::kLong);
  image_sizes[0][0] = placed.height;
  image_sizes[0][1] = placed.width;

  const auto outputs = model.run({images.to(device), image_sizes.to(device)});
  const at::Tensor scores = outputs[0][0].cpu(), boxes = outputs[1][0].cpu(), classes = outputs[2][0].cpu();
  const auto score = scores.accessor<float, 1>();
  const auto box = boxes.accessor<float, 2>();
  const auto label = classes.accessor<int64_t, 1>();
  for (int64_t i = 0; i < score.size(0) && score[i] > 0; ++i)
    std::printf("%d %.6f %.3f %.3f %.3f %.3f\n", ids[label[i]], score[i], box[i][0] / placed.scale_x,
                box[i][1] / placed.scale_y, box[i][2] / placed.scale_x, box[i][3] / placed.scale_y);
}

int main(int count, char** words) {
  if (count != 3) {
    std::fprintf(stderr, "usage: detect model.pt2 picture.ppm\n");
    return 2;
  }
  try {
    detect(words[1], words[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "detect: %s\n", error.what());
    return 1;
  }
}
