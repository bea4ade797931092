"""Types of ROS 2 that logs name without saying what they hold, as recorders before 2023 did.

Only what has been the same in every release is here: where a release has changed a type, which one it is cannot be told
from a message. A field that was added at a type's end is left out; what comes before it is read either way.
"""

from __future__ import annotations

from functools import cache

#: A type a line: its package and name, then its fields. Types of the same package need no package.
_TYPES = """
builtin_interfaces/Time int32 sec; uint32 nanosec
builtin_interfaces/Duration int32 sec; uint32 nanosec
std_msgs/Bool bool data
std_msgs/Byte byte data
std_msgs/Char char data
std_msgs/ColorRGBA float32 r; float32 g; float32 b; float32 a
std_msgs/Empty
std_msgs/Float32 float32 data
std_msgs/Float64 float64 data
std_msgs/Header builtin_interfaces/Time stamp; string frame_id
std_msgs/Int8 int8 data
std_msgs/Int16 int16 data
std_msgs/Int32 int32 data
std_msgs/Int64 int64 data
std_msgs/String string data
std_msgs/UInt8 uint8 data
std_msgs/UInt16 uint16 data
std_msgs/UInt32 uint32 data
std_msgs/UInt64 uint64 data
std_msgs/MultiArrayDimension string label; uint32 size; uint32 stride
std_msgs/MultiArrayLayout MultiArrayDimension[] dim; uint32 data_offset
std_msgs/ByteMultiArray MultiArrayLayout layout; byte[] data
std_msgs/Float32MultiArray MultiArrayLayout layout; float32[] data
std_msgs/Float64MultiArray MultiArrayLayout layout; float64[] data
std_msgs/Int8MultiArray MultiArrayLayout layout; int8[] data
std_msgs/Int16MultiArray MultiArrayLayout layout; int16[] data
std_msgs/Int32MultiArray MultiArrayLayout layout; int32[] data
std_msgs/Int64MultiArray MultiArrayLayout layout; int64[] data
std_msgs/UInt8MultiArray MultiArrayLayout layout; uint8[] data
std_msgs/UInt16MultiArray MultiArrayLayout layout; uint16[] data
std_msgs/UInt32MultiArray MultiArrayLayout layout; uint32[] data
std_msgs/UInt64MultiArray MultiArrayLayout layout; uint64[] data
geometry_msgs/Vector3 float64 x; float64 y; float64 z
geometry_msgs/Vector3Stamped std_msgs/Header header; Vector3 vector
geometry_msgs/Point float64 x; float64 y; float64 z
geometry_msgs/Point32 float32 x; float32 y; float32 z
geometry_msgs/PointStamped std_msgs/Header header; Point point
geometry_msgs/Quaternion float64 x; float64 y; float64 z; float64 w
geometry_msgs/QuaternionStamped std_msgs/Header header; Quaternion quaternion
geometry_msgs/Polygon Point32[] points
geometry_msgs/PolygonStamped std_msgs/Header header; Polygon polygon
geometry_msgs/Pose Point position; Quaternion orientation
geometry_msgs/Pose2D float64 x; float64 y; float64 theta
geometry_msgs/PoseArray std_msgs/Header header; Pose[] poses
geometry_msgs/PoseStamped std_msgs/Header header; Pose pose
geometry_msgs/PoseWithCovariance Pose pose; float64[36] covariance
geometry_msgs/PoseWithCovarianceStamped std_msgs/Header header; PoseWithCovariance pose
geometry_msgs/Transform Vector3 translation; Quaternion rotation
geometry_msgs/TransformStamped std_msgs/Header header; string child_frame_id; Transform transform
geometry_msgs/Twist Vector3 linear; Vector3 angular
geometry_msgs/TwistStamped std_msgs/Header header; Twist twist
geometry_msgs/TwistWithCovariance Twist twist; float64[36] covariance
geometry_msgs/TwistWithCovarianceStamped std_msgs/Header header; TwistWithCovariance twist
geometry_msgs/VelocityStamped std_msgs/Header header; string body_frame_id; string reference_frame_id; Twist velocity
geometry_msgs/Accel Vector3 linear; Vector3 angular
geometry_msgs/AccelStamped std_msgs/Header header; Accel accel
geometry_msgs/AccelWithCovariance Accel accel; float64[36] covariance
geometry_msgs/AccelWithCovarianceStamped std_msgs/Header header; AccelWithCovariance accel
geometry_msgs/Wrench Vector3 force; Vector3 torque
geometry_msgs/WrenchStamped std_msgs/Header header; Wrench wrench
geometry_msgs/Inertia float64 m; Vector3 com; float64 ixx; float64 ixy; float64 ixz; float64 iyy; float64 iyz; \
float64 izz
geometry_msgs/InertiaStamped std_msgs/Header header; Inertia inertia
sensor_msgs/BatteryState std_msgs/Header header; float32 voltage; float32 temperature; float32 current; \
float32 charge; float32 capacity; float32 design_capacity; float32 percentage; uint8 power_supply_status; \
uint8 power_supply_health; uint8 power_supply_technology; bool present; float32[] cell_voltage; \
float32[] cell_temperature; string location; string serial_number
sensor_msgs/RegionOfInterest uint32 x_offset; uint32 y_offset; uint32 height; uint32 width; bool do_rectify
sensor_msgs/CameraInfo std_msgs/Header header; uint32 height; uint32 width; string distortion_model; float64[] d; \
float64[9] k; float64[9] r; float64[12] p; uint32 binning_x; uint32 binning_y; RegionOfInterest roi
sensor_msgs/ChannelFloat32 string name; float32[] values
sensor_msgs/CompressedImage std_msgs/Header header; string format; uint8[] data
sensor_msgs/FluidPressure std_msgs/Header header; float64 fluid_pressure; float64 variance
sensor_msgs/Illuminance std_msgs/Header header; float64 illuminance; float64 variance
sensor_msgs/Image std_msgs/Header header; uint32 height; uint32 width; string encoding; uint8 is_bigendian; \
uint32 step; uint8[] data
sensor_msgs/Imu std_msgs/Header header; geometry_msgs/Quaternion orientation; float64[9] orientation_covariance; \
geometry_msgs/Vector3 angular_velocity; float64[9] angular_velocity_covariance; \
geometry_msgs/Vector3 linear_acceleration; float64[9] linear_acceleration_covariance
sensor_msgs/JointState std_msgs/Header header; string[] name; float64[] position; float64[] velocity; float64[] effort
sensor_msgs/Joy std_msgs/Header header; float32[] axes; int32[] buttons
sensor_msgs/JoyFeedback uint8 type; uint8 id; float32 intensity
sensor_msgs/JoyFeedbackArray JoyFeedback[] array
sensor_msgs/LaserEcho float32[] echoes
sensor_msgs/LaserScan std_msgs/Header header; float32 angle_min; float32 angle_max; float32 angle_increment; \
float32 time_increment; float32 scan_time; float32 range_min; float32 range_max; float32[] ranges; float32[] intensities
sensor_msgs/MagneticField std_msgs/Header header; geometry_msgs/Vector3 magnetic_field; \
float64[9] magnetic_field_covariance
sensor_msgs/MultiDOFJointState std_msgs/Header header; string[] joint_names; geometry_msgs/Transform[] transforms; \
geometry_msgs/Twist[] twist; geometry_msgs/Wrench[] wrench
sensor_msgs/MultiEchoLaserScan std_msgs/Header header; float32 angle_min; float32 angle_max; float32 angle_increment; \
float32 time_increment; float32 scan_time; float32 range_min; float32 range_max; LaserEcho[] ranges; \
LaserEcho[] intensities
sensor_msgs/NavSatStatus int8 status; uint16 service
sensor_msgs/NavSatFix std_msgs/Header header; NavSatStatus status; float64 latitude; float64 longitude; \
float64 altitude; float64[9] position_covariance; uint8 position_covariance_type
sensor_msgs/PointCloud std_msgs/Header header; geometry_msgs/Point32[] points; ChannelFloat32[] channels
sensor_msgs/PointField string name; uint32 offset; uint8 datatype; uint32 count
sensor_msgs/PointCloud2 std_msgs/Header header; uint32 height; uint32 width; PointField[] fields; bool is_bigendian; \
uint32 point_step; uint32 row_step; uint8[] data; bool is_dense
sensor_msgs/Range std_msgs/Header header; uint8 radiation_type; float32 field_of_view; float32 min_range; \
float32 max_range; float32 range
sensor_msgs/RelativeHumidity std_msgs/Header header; float64 relative_humidity; float64 variance
sensor_msgs/Temperature std_msgs/Header header; float64 temperature; float64 variance
sensor_msgs/TimeReference std_msgs/Header header; builtin_interfaces/Time time_ref; string source
nav_msgs/GridCells std_msgs/Header header; float32 cell_width; float32 cell_height; geometry_msgs/Point[] cells
nav_msgs/MapMetaData builtin_interfaces/Time map_load_time; float32 resolution; uint32 width; uint32 height; \
geometry_msgs/Pose origin
nav_msgs/OccupancyGrid std_msgs/Header header; MapMetaData info; int8[] data
nav_msgs/Odometry std_msgs/Header header; string child_frame_id; geometry_msgs/PoseWithCovariance pose; \
geometry_msgs/TwistWithCovariance twist
nav_msgs/Path std_msgs/Header header; geometry_msgs/PoseStamped[] poses
tf2_msgs/TFMessage geometry_msgs/TransformStamped[] transforms
trajectory_msgs/JointTrajectoryPoint float64[] positions; float64[] velocities; float64[] accelerations; \
float64[] effort; builtin_interfaces/Duration time_from_start
trajectory_msgs/JointTrajectory std_msgs/Header header; string[] joint_names; JointTrajectoryPoint[] points
trajectory_msgs/MultiDOFJointTrajectoryPoint geometry_msgs/Transform[] transforms; geometry_msgs/Twist[] velocities; \
geometry_msgs/Twist[] accelerations; builtin_interfaces/Duration time_from_start
trajectory_msgs/MultiDOFJointTrajectory std_msgs/Header header; string[] joint_names; \
MultiDOFJointTrajectoryPoint[] points
diagnostic_msgs/KeyValue string key; string value
diagnostic_msgs/DiagnosticStatus byte level; string name; string message; string hardware_id; KeyValue[] values
diagnostic_msgs/DiagnosticArray std_msgs/Header header; DiagnosticStatus[] status
rosgraph_msgs/Clock builtin_interfaces/Time clock
rcl_interfaces/Log builtin_interfaces/Time stamp; uint8 level; string name; string msg; string file; string function; \
uint32 line
stereo_msgs/DisparityImage std_msgs/Header header; sensor_msgs/Image image; float32 f; float32 t; \
sensor_msgs/RegionOfInterest valid_window; float32 min_disparity; float32 max_disparity; float32 delta_d
shape_msgs/Mesh MeshTriangle[] triangles; geometry_msgs/Point[] vertices
shape_msgs/MeshTriangle uint32[3] vertex_indices
shape_msgs/Plane float64[4] coef
velodyne_msgs/VelodynePacket builtin_interfaces/Time stamp; uint8[1206] data
velodyne_msgs/VelodyneScan std_msgs/Header header; VelodynePacket[] packets
"""


@cache
def _table() -> dict[str, str]:
    return {name: fields for name, _, fields in (line.partition(" ") for line in _TYPES.strip().splitlines())}


@cache
def known_definition(name: str) -> bytes:
    """The ``ros2msg`` definition of a type, with those of all types within it; empty for one that is not known."""
    name = name.replace("/msg/", "/")
    if name not in _table():
        return b""
    sections: list[str] = []
    pending, seen = [name], {name}
    while pending:
        here = pending.pop(0)
        package = here.partition("/")[0]
        lines = [field.strip() for field in _table()[here].split(";") if field.strip()]
        head = f"MSG: {here}\n" if sections else ""
        sections.append(head + "\n".join(lines) + "\n")
        for line in lines:
            kind = line.partition(" ")[0].partition("[")[0]
            kind = kind if "/" in kind or f"{package}/{kind}" not in _table() else f"{package}/{kind}"
            if kind in _table() and kind not in seen:
                seen.add(kind)
                pending.append(kind)
    return f"{'=' * 80}\n".join(sections).encode()
