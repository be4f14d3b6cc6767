"""Small networks of the public CIFAR benchmark of distillation, as timm models."""
