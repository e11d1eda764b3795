def explain(message, parser): return message
