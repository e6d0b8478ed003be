"""The fast step around the plain network and encoder: the same answers from static buffers and recorded graphs.

`step` joins the parts: `pictures` (JPEG to tokens), `tower` (SigLIP), `solver` (conditions and the five steps). `stage`
records what they do, `kernels` holds the arithmetic between two matrix products. docs/speed.md says what each gains.
"""
