# Two commands do everything, environment included: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_ALL := $(VENV)/.installed-all

.PHONY: demo test test-all browser ffmpeg lint format clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

$(INSTALLED_ALL): $(INSTALLED)
	$(BIN)/pip install --quiet --editable ".[dev,all]"
	touch $@

# A narrow detector learns three shapes from 600 synthetic images, and is scored on 120 others.
demo: $(INSTALLED)
	$(BIN)/python -m retinanet.data.synthetic demo/data --train 600 --val 120 --size 160 --seed $(SEED)
	$(BIN)/retinanet train demo/model.pth --override --seed $(SEED) \
	  --images demo/data/train --annotations demo/data/train.json \
	  --val-images demo/data/val --val-annotations demo/data/val.json \
	  --backbone test_resnet --weights none --width 64 --resize 160 --max-size 224 \
	  --lr 0.001 --batch 8 --epochs 20 --val-every 20
	$(BIN)/retinanet infer demo/model.best.pth --images demo/data/val --annotations demo/data/val.json \
	  --output demo/detections.json --draw demo/pictures
	@echo
	@echo "Look at demo/pictures (detections drawn into the held-out images), demo/detections.json (COCO results),"
	@echo "demo/metrics.csv (losses and AP by step) and demo/model.best.pth (the detector; try it on your own image:"
	@echo "  $(BIN)/retinanet infer demo/model.best.pth --images YOUR.jpg --draw demo/mine)"

# Reports are tested in Chromium. Where it is not and cannot be installed, those tests are skipped and say so.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || (apt-get update && apt-get install --yes --no-install-recommends chromium) >/dev/null 2>&1 \
	  || echo "No Chromium: the tests of pages will be skipped."

# Videos are read by FFmpeg's libraries; the same holds for their tests.
ffmpeg:
	@command -v ffmpeg >/dev/null \
	  || (apt-get update && apt-get install --yes --no-install-recommends ffmpeg) >/dev/null 2>&1 \
	  || echo "No FFmpeg: the tests of videos will be skipped."

test: $(INSTALLED) browser
	$(BIN)/python -m pytest -n auto -m "not slow"

# With every optional package that this machine can run.
test-all: $(INSTALLED_ALL) browser ffmpeg
	$(BIN)/python -m pytest -n auto

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build dist
