"""The SqueezeNet1_1 guide's scoring script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run("score {results} {labels} -o {file}", "results", "labels", "file")
