"""The AlexNet guide's export script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("export alexnet --weights {pth_file} -o {onnx_file}", "pth_file", "onnx_file")
