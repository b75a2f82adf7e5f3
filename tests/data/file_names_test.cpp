#include "data/file_names.h"

#include <gtest/gtest.h>

namespace tessera::data {
namespace {

TEST(FileNames, HiddenIsWhatProgramsPutThereForThemselves) {
  for (const char* path : {"._x.png", ".DS_Store", "a/._x.png", ".ipynb_checkpoints/x-checkpoint.png",
                           "a/.ipynb_checkpoints/b/x.png", "__MACOSX/x.png", "./__MACOSX/a/._x.png",
                           "a/@eaDir/x.jpg/SYNOPHOTO_THUMB_XL.jpg", "./._x.jpg"}) {
    EXPECT_TRUE(is_hidden(path)) << path;
  }
  for (const char* path : {"x.png", "./x.png", "../x.png", "a/./x.png", "a.b/x.png", "x", "", "__macosx.png",
                           "MACOSX/x.png", "a//x.png"}) {
    EXPECT_FALSE(is_hidden(path)) << path;
  }
}

TEST(FileNames, AnExtensionFollowsTheLastDotOfTheLastPart) {
  EXPECT_EQ(lower_extension("photo v1.7.PNG"), "png");
  EXPECT_EQ(lower_extension("a.tar/b"), "");
  EXPECT_EQ(lower_extension("a/.png"), "");
  EXPECT_EQ(lower_extension("a."), "");
  EXPECT_TRUE(is_image_extension("jpeg"));
  EXPECT_FALSE(is_image_extension("gif"));
  EXPECT_FALSE(is_image_extension(""));
}

TEST(FileNames, WhatIsLeftOutIsCountedByWhy) {
  LeftOut left_out;
  EXPECT_TRUE(left_out.empty());
  left_out.add("hidden", "._x.png");
  left_out.add("hidden", "._y.png");
  left_out.add_kind("a.gif");
  left_out.add_kind("README");
  left_out.add_kind("b.GIF");
  LeftOut both;
  both.add(left_out);
  both.add(left_out);
  EXPECT_EQ(both.text(), "4 hidden (such as '._x.png'), 6 of other kinds (.gif 4, no extension 2)");
  for (char letter = 'a'; letter <= 'z'; ++letter) both.add_kind(std::string("x.") + letter);
  EXPECT_EQ(both.text().substr(both.text().size() - 6), ", …)");
}

}  // namespace
}  // namespace tessera::data
