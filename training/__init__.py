"""Make models from recordings in which the true spikes are known: ``python -m training``.

Needs the extra ``train`` (TensorFlow, Keras, tf2onnx) to fit and export; reading the ground truth and scoring
do not.
"""
