// A picture on a detector's canvas, as training saw it, and the way back to its own pixels. No dependencies.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int height, width;
  std::vector<uint8_t> pixels;  // RGB, height * width * 3
};

struct Placed {
  std::vector<uint8_t> canvas;  // 3 planes of canvas height * canvas width: one image of the batch
  int height, width;            // of the picture, in the canvas's top left corner
  double scale_x, scale_y;      // canvas = original * scale
};

// A binary PPM (P6) of 8 bits a channel; `convert photo.jpg photo.ppm` makes one.
inline Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  file >> magic;
  int header[3];  // width, height, largest value
  for (int& value : header) {
    while (file >> std::ws && file.peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    file >> value;
  }
  file.get();  // the one blank after the header
  if (!file || magic != "P6" || header[0] < 1 || header[1] < 1 || header[2] != 255)
    throw std::runtime_error(path + " is no binary PPM of 8 bits a channel");
  Picture picture{header[1], header[0], std::vector<uint8_t>(size_t{3} * header[0] * header[1])};
  if (!file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size()))
    throw std::runtime_error(path + " is truncated");
  return picture;
}

// One line of `length` pixels, `stride` apart, resized to `size`: bilinear, antialiased when shrinking.
inline void resize_line(const float* source, int length, float* target, int size, size_t stride, size_t out_stride) {
  const double scale = double(length) / size, reach = std::max(scale, 1.0);
  for (int x = 0; x < size; ++x) {
    const double centre = (x + 0.5) * scale;
    const int first = std::max(0, int(centre - reach + 0.5)), last = std::min(length, int(centre + reach + 0.5));
    double sum = 0, weights = 0;
    for (int i = first; i < last; ++i) {
      const double weight = std::max(0.0, 1 - std::abs(i + 0.5 - centre) / reach);
      sum += weight * source[i * stride];
      weights += weight;
    }
    target[x * out_stride] = float(sum / weights);
  }
}

// The usual rule: the shorter side becomes `resize`, the longer at most `max_size`; smaller if the canvas is.
inline Placed place(const Picture& picture, int resize, int max_size, int canvas_height, int canvas_width) {
  const double h = picture.height, w = picture.width;
  const auto scaled = [](double side, double scale) { return std::max(1, int(std::nearbyint(side * scale))); };
  double scale = std::min(resize / std::min(h, w), max_size / std::max(h, w));
  if (scaled(h, scale) > canvas_height || scaled(w, scale) > canvas_width)
    scale = std::min(canvas_height / h, canvas_width / w);
  const int height = scaled(h, scale), width = scaled(w, scale);

  Placed placed{std::vector<uint8_t>(size_t{3} * canvas_height * canvas_width), height, width, width / w, height / h};
  std::vector<float> source(picture.pixels.begin(), picture.pixels.end());
  std::vector<float> wide(size_t(picture.height) * width), done(size_t(height) * width);
  for (int channel = 0; channel < 3; ++channel) {
    for (int y = 0; y < picture.height; ++y)
      resize_line(&source[size_t(3) * y * picture.width + channel], picture.width, &wide[size_t(y) * width], width, 3, 1);
    for (int x = 0; x < width; ++x) resize_line(&wide[x], picture.height, &done[x], height, width, width);
    uint8_t* plane = placed.canvas.data() + size_t(channel) * canvas_height * canvas_width;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        plane[size_t(y) * canvas_width + x] = uint8_t(std::nearbyint(done[size_t(y) * width + x]));
  }
  return placed;
}
