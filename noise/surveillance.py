"""The family `surveillance`: what a roadside camera does to a plate and a grille.

Each entry's source says which numbers are published and which are own. Lengths are pixels of a 224 px image of one
vehicle, 1.8 m wide, so about 8 mm on the vehicle to a pixel.
"""

from __future__ import annotations

from functools import partial

from noise.entry import Corruption
from noise.roadside import Dirt, Rain, depth_fog, headlight_glare, lens_dirt, rain_streaks, scaled_dirt, scaled_rain
from noise.sensor import (
    Far,
    LowLight,
    Motion,
    driving_blur,
    far_jpeg,
    low_light,
    overexposure,
    scaled_motion,
    underexposure,
)

_roadside = partial(Corruption, family="surveillance")

SURVEILLANCE: dict[str, Corruption] = {
    "low_light": _roadside(
        low_light,
        "noise",
        {
            "imagenet": (
                LowLight(1500, 2.5, 0.6, 0.9),
                LowLight(500, 2.5, 0.6, 0.8),
                LowLight(200, 2.5, 0.6, 0.7),
                LowLight(90, 2.5, 0.6, 0.6),
                LowLight(40, 2.5, 0.6, 0.5),
            )
        },
        source="model: EMVA Standard 1288 and Foi et al. 2008; dark noise of 2.5 electrons as data sheets by that "
        "standard give for CMOS sensors; electrons, row offsets and gain are own",
    ),
    "driving_blur": _roadside(
        driving_blur,
        "blur",
        {"imagenet": (Motion(3.0), Motion(6.0), Motion(9.0), Motion(12.0), Motion(17.0))},
        source="own: 50 km/h across the view at 124 pixels a metre and 1/570, 1/290, 1/190, 1/140, 1/100 s",
        scaled=scaled_motion,
    ),
    "rain_streaks": _roadside(
        rain_streaks,
        "weather",
        {
            "imagenet": (
                Rain(0.0004, 14, 0.5, 0.25),
                Rain(0.0008, 17, 0.6, 0.32),
                Rain(0.0014, 20, 0.7, 0.40),
                Rain(0.0022, 24, 0.8, 0.50),
                Rain(0.0034, 28, 0.9, 0.60),
            )
        },
        source="model: Garg & Nayar 2007; numbers are own",
        scaled=scaled_rain,
    ),
    "depth_fog": _roadside(
        depth_fog,
        "weather",
        {"imagenet": (1000.0, 400.0, 200.0, 100.0, 50.0)},
        source="law: Koschmieder 1924; visibilities in metres: 1000 is the WMO's bound of fog, 200 thick and 50 dense "
        "fog for road users (UK Met Office, fact sheet 3), 400 and 100 lie between; distances 15 to 30 m are own",
    ),
    "headlight_glare": _roadside(
        headlight_glare,
        "weather",
        {"imagenet": (0.05, 0.12, 0.25, 0.5, 0.9)},
        source="r^-2 law: Vos 1984, CIE 146:2002 (of the eye); numbers are own",
    ),
    "lens_dirt": _roadside(
        lens_dirt,
        "weather",
        {"imagenet": (Dirt(8, 0.5, 6.0), Dirt(14, 0.65, 6.0), Dirt(22, 0.75, 6.0), Dirt(32, 0.85, 6.0),
                      Dirt(46, 0.95, 6.0))},
        source="model: Gu et al. 2009; numbers are own",
        scaled=scaled_dirt,
    ),
    "overexposure": _roadside(
        overexposure, "weather", {"imagenet": (0.6, 1.1, 1.6, 2.1, 2.7)}, source="own, in stops; sRGB by IEC 61966-2-1"
    ),
    "underexposure": _roadside(
        underexposure, "weather", {"imagenet": (0.7, 1.5, 2.5, 3.5, 4.5)},
        source="own, in stops; sRGB by IEC 61966-2-1",
    ),
    "far_jpeg": _roadside(
        far_jpeg,
        "resolution",
        {
            "imagenet": (Far(1.5, 70), Far(2, 50), Far(3, 35), Far(4, 25), Far(6, 18)),
            "tiny": (Far(1.25, 80), Far(1.5, 70), Far(2, 60), Far(2.5, 50), Far(3.2, 40)),
            "cifar": (Far(1.2, 85), Far(1.35, 75), Far(1.6, 65), Far(2, 60), Far(2.5, 50)),
        },
        source="own, a table for each size: a small image has less to lose",
    ),
}  # fmt: skip
