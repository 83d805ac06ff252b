// What an artifact says about itself: JSON without blanks, of which a program that detects needs few numbers.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

// The integers of `"name":7` or `"name":[7,8,9]`. (A quote inside a string is escaped, so no class's name is mistaken.)
inline std::vector<int> numbers(const std::string& record, const std::string& name) {
  const std::string key = '"' + name + "\":";
  const size_t at = record.find(key);
  if (at == std::string::npos) throw std::runtime_error("the record has no " + name);
  const char* text = record.c_str() + at + key.size();
  const bool list = *text == '[';
  std::vector<int> found;
  if (list && text[1] == ']') return found;
  do {
    char* end;
    found.push_back(int(std::strtol(text + list, &end, 10)));  // past the bracket or the comma
    text = end;
  } while (list && *text == ',');
  return found;
}
