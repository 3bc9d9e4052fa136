"""Run by the tests with an interpreter that has llama_cpp: prints the ids of each text as JSON.

The argument is a GGUF file; texts come as a JSON list on standard input. Nothing in them is a control token.
"""

import json
import sys

import llama_cpp

loaded = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
texts = json.load(sys.stdin)
print(json.dumps([loaded.tokenize(text.encode(), add_bos=False, special=False) for text in texts]))
