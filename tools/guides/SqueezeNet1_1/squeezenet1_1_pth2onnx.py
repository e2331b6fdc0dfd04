"""The SqueezeNet1_1 guide's export script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("export squeezenet1_1 --weights {pth_file} -o {onnx_file}", "pth_file", "onnx_file")
