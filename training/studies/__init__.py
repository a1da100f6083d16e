"""What becomes of a policy that is trained or asked otherwise: without a domain, an expert or a part of its own, on
prompts worded differently; and what training and serving cost. Knows no command line and draws nothing.
"""
