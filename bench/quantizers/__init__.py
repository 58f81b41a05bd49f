"""Our quantizer beside llama.cpp's at equal bits: `python -m bench.quantizers CHECKPOINT --text FILE`."""
