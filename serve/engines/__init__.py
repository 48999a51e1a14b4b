"""What translates, behind `serve.engine.Translator`: in this process, in vLLM, or on other servers."""
