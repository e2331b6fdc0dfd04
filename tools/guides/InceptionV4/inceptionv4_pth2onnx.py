"""The InceptionV4 guide's export script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("export inceptionv4 --weights {ckpt} -o {onnx}", "--ckpt=", "--onnx=out.onnx")
