"""Any-Precision: bit planes and a table of weights for every width, of which each width's are the first.

Park, Hyun, Cho, Sim, Lee: "Any-Precision LLM: Low-Cost Deployment of Multiple, Different-Sized LLMs", arXiv 2402.10517.
"""
