"""The InceptionV4 guide's scoring script, done by zoofast."""

from zoofast.guide_script import run

if __name__ == "__main__":
    run(
        "score {infer_results} {anno_file} -o {metrics_json}",
        "--infer_results",
        "--anno_file",
        "--metrics_json",
    )
