"""The ResNet34 guide's export script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("export resnet34 --weights {pth_file} -o {onnx_file}", "pth_file", "onnx_file")
